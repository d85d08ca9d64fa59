"""Means that add: total and weight stay apart to the very end."""

import dataclasses

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
