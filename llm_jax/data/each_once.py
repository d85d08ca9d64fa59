"""Rows that are made one by one, each once an epoch."""

from collections.abc import Callable, Sequence
import functools

import numpy as np

from llm_jax.data.packing import Row


class EachOnce:
  """Rows in an order of each epoch's own.

  Args:
    make: number of a row -> the row.
    size_R: positions of each up to its last that is not padding.
    seed: numbers that the order is drawn from; None = by number.
  """

  def __init__(
    self,
    make: Callable[[int], Row],
    size_R: np.ndarray,
    seed: Sequence[int] | None,
  ):
    self._make, self._size_R = make, size_R
    self._seed = None if seed is None else tuple(seed)
    # Two, as epochs overlap in a prefetch.
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __len__(self) -> int:
    return len(self._size_R)

  def row(self, epoch: int, index: int) -> Row:
    return self._make(int(self._order(epoch)[index]))

  def width(self, epoch: int, index: int) -> int:
    return int(self._size_R[self._order(epoch)[index]])

  def _make_order(self, epoch: int) -> np.ndarray:
    if self._seed is None:
      return np.arange(len(self))
    return np.random.default_rng((*self._seed, epoch)).permutation(len(self))
