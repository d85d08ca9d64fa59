"""Rows -> batches, with a position that is one number.

Dimension key: B rows of this process; T positions.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llm_jax.contracts import Batch
from llm_jax.data.packing import Row, Rows

_MANY = 2**62  # rows of a source that repeats for ever


class Offline:
  """Endless batches of rows, mixed by weight, prefetched by Grain.

  Global batch g holds samples g B .. g B + B - 1 whatever the number of
  processes; this process makes only its block of them.

  Args:
    rows: one for each part of the mixture.
    weights: share of samples from each.
    batch_size: B of the global batch.
    block: (index, count): which of `count` equal blocks is this process's.
  """

  def __init__(
    self,
    rows: Sequence[Rows],
    weights: Sequence[float],
    batch_size: int,
    block: tuple[int, int] = (0, 1),
  ):
    import grain  # noqa: PLC0415  (not on every machine)

    class Endless(grain.MapDataset):
      """Sample i of one source is row i mod n of epoch i div n."""

      def __init__(self, rows: Rows):
        super().__init__()
        self._rows = rows

      def __len__(self) -> int:
        return _MANY

      def __getitem__(self, index: Any) -> Row:
        epoch, at = divmod(int(index), len(self._rows))
        return self._rows.row(epoch, at)

    class Mine(grain.MapDataset):
      """The samples of this process's block, batch after batch."""

      def __init__(self, samples: Any, first: int):
        super().__init__(samples)
        self._first = first

      def __len__(self) -> int:
        return 2**40

      def __getitem__(self, index: Any) -> Row:
        batch, at = divmod(int(index) + self._first * size, size)
        return self._parent[batch * batch_size + block[0] * size + at]

    size = batch_size // block[1]
    parts = [Endless(r) for r in rows]
    samples = (
      parts[0]
      if len(parts) == 1
      else grain.MapDataset.mix(parts, weights=list(weights))
    )
    self._make = lambda first: iter(
      Mine(samples, first)
      .to_iter_dataset(
        grain.ReadOptions(num_threads=4, prefetch_buffer_size=4 * size)
      )
      .batch(size)
    )
    self._done = 0
    self._iterator: Any = None

  def next(self, state: Any = None) -> Batch:
    """The next batch; does not read the training state."""
    del state
    if self._iterator is None:
      self._iterator = self._make(self._done)
    self._done += 1
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    return {"batches": self._done}

  def set_state(self, saved: dict[str, Any]) -> None:
    self._done, self._iterator = int(saved["batches"]), None


class Finite:
  """A split as batches of one shape; rows added at the end have no mask."""

  def __init__(
    self, rows: Rows, batch_size: int, block: tuple[int, int] = (0, 1)
  ):
    self._rows, self._batch_size, self._block = rows, batch_size, block

  def __len__(self) -> int:
    return -(-len(self._rows) // self._batch_size)

  def __iter__(self) -> Iterator[Batch]:
    return (self[i] for i in range(len(self)))

  def __getitem__(self, index: int) -> Batch:
    if not 0 <= index < len(self):
      raise IndexError(index)
    size = self._batch_size // self._block[1]
    first = index * self._batch_size + self._block[0] * size
    rows = []
    for i in range(first, first + size):
      row = self._rows.row(0, min(i, len(self._rows) - 1))
      if i >= len(self._rows):
        row = dict(row, mask_BT=np.zeros_like(row["mask_BT"]))
      rows.append(row)
    return stack(rows)


def stack(rows: Sequence[Row]) -> Batch:
  """Rows of T -> arrays of B T."""
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
