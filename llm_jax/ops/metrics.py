"""Means that add: total and weight stay apart to the very end."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
  """A weighted mean, as (sum of weight * value, sum of weight)."""

  total: jax.Array
  weight: jax.Array

  @classmethod
  def of(cls, value: jax.Array, mask: jax.Array | None = None) -> "Mean":
    """The mean of `value` over `mask` (bool or weights; None = all)."""
    weight = jnp.ones_like(value) if mask is None else mask.astype(value.dtype)
    return cls((value * weight).sum(), weight.sum())

  @classmethod
  def sum(cls, value: jax.Array) -> "Mean":
    """A number that microbatches add up and nothing divides."""
    return cls(value, jnp.zeros_like(value))

  def __add__(self, other: "Mean") -> "Mean":
    return Mean(self.total + other.total, self.weight + other.weight)

  def compute(self) -> float:
    """Total / weight; the total itself where the weight is 0."""
    total, weight = float(self.total), float(self.weight)
    return total / weight if weight else total


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Variance(Mean):
  """A weighted variance, as sums of weight times (1, x - c, (x - c)^2).

  Any c gives the same; one near the mean loses no digits.
  """

  square: jax.Array

  @classmethod
  def of(
    cls,
    value: jax.Array,
    mask: jax.Array | None = None,
    around: float | jax.Array = 0.0,
  ) -> "Variance":
    """The variance of `value` over `mask`, over n."""
    off = value - around
    mean = Mean.of(off, mask)
    return cls(mean.total, mean.weight, Mean.of(off**2, mask).total)

  def __add__(self, other: Any) -> "Variance":
    return Variance(
      self.total + other.total,
      self.weight + other.weight,
      self.square + other.square,
    )

  def compute(self) -> float:
    """0 where nothing counts."""
    total, weight = float(self.total), float(self.weight)
    if not weight:
      return 0.0
    return max(float(self.square) / weight - (total / weight) ** 2, 0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Largest(Mean):
  """The largest of several means: totals [..., M] over one weight.

  Of leading dims, the mean of their largest ones.
  """

  def __add__(self, other: Mean) -> "Largest":
    return Largest(self.total + other.total, self.weight + other.weight)

  def compute(self) -> float:
    """0 where nothing counts."""
    weight = float(self.weight)
    return float(self.total.max(-1).mean()) / weight if weight else 0.0
