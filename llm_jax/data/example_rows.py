"""Rows of one labelled example each.

Dimension key: T positions; N examples of a split; M those kept.
"""

from collections.abc import Mapping, Sequence
import functools

import numpy as np

from llm_jax.data.example_tokens import Part
from llm_jax.data.framing import Frame, shortened
from llm_jax.data.packing import Row, Rows


def sizes(part: Part, frame: Frame) -> np.ndarray:
  """Tokens of each example with what is around it, [N]."""
  first_N, second_N = part.sizes
  added_N = np.where(second_N < 0, frame.added(False), frame.added(True))
  return first_N + np.maximum(second_N, 0) + added_N


class ExampleRows:
  """Examples in an order of each epoch's own, too long ones cut.

  Args:
    part: of a source.
    kept_M: numbers of the examples that are read.
    columns: what is told of each of all N, by name.
    frame: around texts.
    length: T.
    first: the first token's output is read; else the last one's.
    seed: numbers that the order is drawn from; None = as stored.
  """

  def __init__(
    self,
    part: Part,
    kept_M: np.ndarray,
    columns: Mapping[str, np.ndarray],
    frame: Frame,
    length: int,
    first: bool,
    seed: Sequence[int] | None,
  ):
    self._part, self._kept, self._columns = part, kept_M, columns
    self._frame, self._length, self._first = frame, length, first
    self._size_N = np.minimum(sizes(part, frame), length)
    self._seed = None if seed is None else tuple(seed)
    # Two, as epochs overlap in a prefetch.
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __len__(self) -> int:
    return len(self._kept)

  def row(self, epoch: int, index: int) -> Row:
    """Arrays of T, and what is told."""
    i = int(self._order(epoch)[index])
    a, b = self._part.texts(i)
    room = self._length - self._frame.added(b is not None)
    if b is None:
      a = a[:room]
    else:
      size, other = shortened(len(a), len(b), room)
      a, b = a[:size], b[:other]
    framed = self._frame(a, b)
    out = framed.row(self._length)
    out["mask_BT"][0 if self._first else len(framed.ids) - 1] = True
    return out | {name: x[i] for name, x in self._columns.items()}

  def width(self, epoch: int, index: int) -> int:
    return int(self._size_N[self._order(epoch)[index]])

  def _make_order(self, epoch: int) -> np.ndarray:
    if self._seed is None:
      return self._kept
    return np.random.default_rng((*self._seed, epoch)).permutation(self._kept)


class Joined:
  """Rows of several sources, one after another."""

  def __init__(self, parts: Sequence[Rows]):
    self._parts = parts
    self._ends = np.cumsum([len(p) for p in parts])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def row(self, epoch: int, index: int) -> Row:
    rows, at = self._place(index)
    return rows.row(epoch, at)

  def width(self, epoch: int, index: int) -> int:
    rows, at = self._place(index)
    return rows.width(epoch, at)

  def _place(self, index: int) -> tuple[Rows, int]:
    i = int(np.searchsorted(self._ends, index, side="right"))
    return self._parts[i], index - (int(self._ends[i - 1]) if i else 0)
