"""Rows -> batches, with a position that is one number.

Rows that end in padding are cut to the longest of their global batch, at one
of a few widths, so that few programs are compiled; nothing that counts is
lost, and each process finds the same width, whichever rows are its own.

Dimension key: B rows of this process; T positions.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.contracts import Batch, Share
from llm_jax.data.packing import Row, Rows

_ENDLESS = 2**40  # samples, of a source that repeats for ever
_AHEAD = 8  # batches made before they are asked for
_THREADS = 2
_COUNTED = ("mask_BT", "prompt_BT", "asked_BT")  # which targets count


class _Place(NamedTuple):
  """A row that is not made yet."""

  rows: Rows
  epoch: int
  at: int

  def row(self) -> Row:
    return self.rows.row(self.epoch, self.at)

  def width(self) -> int:
    return self.rows.width(self.epoch, self.at)


class Offline:
  """Endless batches of rows, mixed by weight, prefetched by Grain.

  Sample s is a row of one part of the mixture, by s alone; global batch g
  holds samples g B .. g B + B - 1 whatever the number of processes, and this
  process makes only its block of them. The position is g.

  Args:
    rows: one for each part of the mixture.
    weights: share of samples from each.
    batch_size: B of the global batch.
    block: which rows of each batch are this process's.
    together: how many rows a sample is, if `rows` gives several at once.
    widths: how many a batch may have, up to all T.
    letters: that end the names of arrays which are cut: S where a source is as
      long as its target.
  """

  def __init__(
    self,
    rows: Sequence[Rows],
    weights: Sequence[float],
    batch_size: int,
    block: Share = (0, 1),
    together: int = 1,
    widths: int = 1,
    letters: str = "T",
  ):
    of_block(0, batch_size, block, together)  # or say what is wrong

    import grain  # noqa: PLC0415  (not on every machine)

    class Endless(grain.MapDataset):
      """Sample i of one part is row i mod n of epoch i div n."""

      def __init__(self, rows: Rows):
        super().__init__()
        self._rows = rows

      def __len__(self) -> int:
        return _ENDLESS

      def __getitem__(self, index: Any) -> _Place:
        return _Place(self._rows, *divmod(int(index), len(self._rows)))

    class Blocks(grain.MapDataset):
      """This process's block of each global batch, from batch `first`."""

      def __init__(self, samples: Any, first: int):
        super().__init__(samples)
        self._first = first

      def __len__(self) -> int:
        return _ENDLESS // batch_size - self._first

      def __getitem__(self, index: Any) -> Batch:
        at = int(index) + self._first
        whole = of_block(at, batch_size, (0, 1), together)
        mine = of_block(at, batch_size, block, together)
        places = {i: self._parent[i] for i in (whole if widths > 1 else mine)}
        made = stack([places[i].row() for i in mine], together)
        if widths == 1:
          return made
        used = max(p.width() for p in places.values())
        return narrow(made, used, widths, letters)

    parts = [Endless(r) for r in rows]
    samples = (
      parts[0]
      if len(parts) == 1
      else grain.MapDataset.mix(parts, weights=list(weights))
    )
    options = grain.ReadOptions(
      num_threads=_THREADS, prefetch_buffer_size=_AHEAD
    )
    # Grain can also be told its position; a start there costs no more.
    self._make = lambda first: iter(
      Blocks(samples, first).to_iter_dataset(options)
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
    self,
    rows: Rows,
    batch_size: int,
    block: Share = (0, 1),
    together: int = 1,
    widths: int = 1,
    letters: str = "T",
  ):
    of_block(0, batch_size, block, together)  # or say what is wrong
    self._rows, self._batch_size, self._block = rows, batch_size, block
    self._together, self._widths = together, widths
    self._letters = letters

  def __len__(self) -> int:
    return -(-len(self._rows) * self._together // self._batch_size)

  def __iter__(self) -> Iterator[Batch]:
    return (self[i] for i in range(len(self)))

  def __getitem__(self, index: int) -> Batch:
    if not 0 <= index < len(self):
      raise IndexError(index)
    rows = []
    together = self._together
    for i in of_block(index, self._batch_size, self._block, together):
      row = self._rows.row(0, min(i, len(self._rows) - 1))
      if i >= len(self._rows):
        none = {k: np.zeros_like(row[k]) for k in _COUNTED if k in row}
        row = row | none
      rows.append(row)
    made = stack(rows, together)
    if self._widths == 1:
      return made
    whole = of_block(index, self._batch_size, (0, 1), together)
    last = len(self._rows) - 1
    used = max(self._rows.width(0, min(i, last)) for i in whole)
    return narrow(made, used, self._widths, self._letters)


def of_block(
  batch: int, batch_size: int, block: Share, together: int = 1
) -> Sequence[int]:
  """Samples, of `together` rows each, of a process's block of a batch."""
  index, count = block
  if batch_size % (count * together):
    of = f" of {together} rows that belong together" if together > 1 else ""
    raise ValueError(
      f"--batch_size={batch_size}: not divisible by {count} processes{of}"
    )
  size = batch_size // (count * together)
  if isinstance(index, int):
    first = (batch * count + index) * size
    return range(first, first + size)
  return [
    at
    for i in index
    for at in of_block(batch, batch_size, (i, count), together)
  ]


def stack(rows: Sequence[Row], together: int = 1) -> Batch:
  """Rows of T, or of G T, -> arrays of B T."""
  put = np.stack if together == 1 else np.concatenate
  return {name: put([row[name] for row in rows]) for name in rows[0]}


def narrow(batch: Batch, used: int, widths: int, letters: str = "T") -> Batch:
  """Arrays of T positions -> their first ones, `used` at least.

  Args:
    batch: of which no row has anything behind `used`.
    used: positions that are kept.
    widths: n; the result has a width of ceil(T / n) k, or T.
    letters: that end the names of arrays which are cut.
  """

  def one(name: str, x: np.ndarray) -> np.ndarray:
    if not name.endswith(tuple(letters)):
      return x
    step = -(-x.shape[-1] // widths)
    return x[..., : -(-used // step) * step]

  return {name: one(name, x) for name, x in batch.items()}
