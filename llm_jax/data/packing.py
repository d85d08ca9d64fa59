"""Rows of a fixed length, out of documents of any length.

A packing plan is an index, not a process: every row of every epoch can be
made on its own, so a position in the data is one number, whatever the number
of hosts, and is restored at once.

Dimension key: T positions of a row; N pieces; R rows; G rows side by side.
"""

import bisect
from collections.abc import Sequence
import functools
import itertools
from typing import NamedTuple, Protocol

import numpy as np

from llm_jax.data.tokens import Tokens

Row = dict[str, np.ndarray]
_WINDOW = 4096  # pieces packed together


class Rows(Protocol):
  """Rows at random access."""

  def __len__(self) -> int:
    """Rows of an epoch, the same in each."""
    ...

  def row(self, epoch: int, index: int) -> Row:
    """Arrays of length T."""
    ...

  def width(self, epoch: int, index: int) -> int:
    """Positions of the row up to the last that is not padding; T at most.

    Rows that are meant to be full may say T.
    """
    ...


class Cut:
  """Concatenate and cut: documents in a row see the ones before them.

  Each epoch has its own order of documents, its own first token (so that rows
  end elsewhere) and its own order of rows. A token is a target at most once
  an epoch; fewer than 2 T of all tokens are left out.

  Args:
    tokens: of all documents.
    length: T.
    seed: numbers that the order of each epoch is drawn from.
  """

  def __init__(self, tokens: Tokens, length: int, seed: Sequence[int]):
    self._tokens, self._length, self._seed = tokens, length, tuple(seed)
    whole = len(tokens) // length
    self._moves = whole > 1
    self._rows = whole - 1 if self._moves else whole
    if not self._rows:
      raise ValueError(
        f"--data.length={length}: longer than all {len(tokens)} tokens to"
        " train on"
      )
    # Plans are made again when needed: two, as epochs overlap in a prefetch.
    self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

  def __len__(self) -> int:
    return self._rows

  def row(self, epoch: int, index: int) -> Row:
    order, ends, first, rows = self._plan(epoch)
    start = first + int(rows[index]) * self._length
    ids = self._stream(order, ends, start, self._length + 1)
    return {
      "tokens_BT": ids[:-1],
      "target_BT": ids[1:],
      "mask_BT": np.ones(self._length, bool),
    }

  def width(self, epoch: int, index: int) -> int:
    del epoch, index
    return self._length

  def _make_plan(self, epoch: int) -> tuple:
    r = np.random.default_rng((*self._seed, epoch))
    offsets = self._tokens.offsets
    order = r.permutation(len(offsets) - 1)
    ends = np.cumsum(np.diff(offsets)[order])
    first = int(r.integers(self._length)) if self._moves else 0
    return order, ends, first, r.permutation(self._rows)

  def _stream(
    self, order: np.ndarray, ends: np.ndarray, start: int, count: int
  ) -> np.ndarray:
    """Ids [start - 1, start - 1 + count) of the epoch's stream, i32.

    Before the first stands `start_id`.
    """
    out, filled, at = np.empty(count, np.int32), 0, start - 1
    if at < 0:
      out[0], filled, at = self._tokens.start_id, 1, 0
    d = int(np.searchsorted(ends, at, side="right"))
    ids, offsets = self._tokens.ids, self._tokens.offsets
    while filled < count:
      begin, end = offsets[order[d]], offsets[order[d] + 1]
      begin += at - (int(ends[d]) - (end - begin))
      take = min(int(end - begin), count - filled)
      out[filled : filled + take] = ids[begin : begin + take]
      filled, at, d = filled + take, at + take, d + 1
    return out


class Pieces(NamedTuple):
  """Parts of documents, each short enough for a row."""

  start: np.ndarray  # of each in the ids
  size: np.ndarray
  is_first: np.ndarray  # of its document

  def moved(self, by: int) -> "Pieces":
    """The same, of ids that stand behind `by` others."""
    return self._replace(start=self.start + by)


def cut_up(tokens: Tokens, length: int) -> Pieces:
  """All of every document, the long ones in several pieces."""
  sizes = np.diff(tokens.offsets)
  counts = -(-sizes // length)
  document = np.repeat(np.arange(len(sizes)), counts)
  nth = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
  return Pieces(
    tokens.offsets[document] + nth * length,
    np.minimum(sizes[document] - nth * length, length),
    nth == 0,
  )


class BestFit:
  """Whole documents, several a row, none seeing another.

  Documents longer than a row are cut into pieces, unless other pieces are
  given. Pieces, `_WINDOW` at a time in a random order, go longest first into
  the fullest row that still has room. `segment_BT` counts from 1,
  `position_BT` from 0 in each piece. Every token is a target once an epoch;
  `start_id` comes before each document. Where only some tokens are to be
  learned, `prompt_BT` marks the others.

  Args:
    tokens: of all documents.
    length: T.
    seed: numbers that the order is drawn from; None = as stored.
    pieces: what to pack; None = all, `cut_up`.
    alone: whether each piece has a row of its own.
  """

  def __init__(
    self,
    tokens: Tokens,
    length: int,
    seed: Sequence[int] | None,
    pieces: Pieces | None = None,
    alone: bool = False,
  ):
    self._tokens, self._length = tokens, length
    self._seed = None if seed is None else tuple(seed)
    if pieces is None:
      pieces = cut_up(tokens, length)
    self._alone = alone
    self._start, self._size, self._is_first = pieces
    if not len(self._size):
      raise ValueError("the split holds no documents")
    order = np.arange(len(self._size))
    if self._seed is not None:
      order = np.random.default_rng(self._seed).permutation(order)
    windows = [
      _best_fit(order[at : at + _WINDOW], self._size, length)
      for at in range(0, 0 if alone else len(order), _WINDOW)
    ] or [(order, np.ones(len(order), int))]
    # Row r holds pieces[ends[r]:ends[r + 1]].
    self._pieces = np.concatenate([pieces for pieces, _ in windows])
    counts = np.concatenate([counts for _, counts in windows])
    self._ends = np.concatenate([[0], np.cumsum(counts)])
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def row(self, epoch: int, index: int) -> Row:
    T = self._length
    out = {
      "tokens_BT": np.zeros(T, np.int32),
      "target_BT": np.zeros(T, np.int32),
      "mask_BT": np.zeros(T, bool),
      "segment_BT": np.zeros(T, np.int32),
      "position_BT": np.zeros(T, np.int32),
    }
    trained = self._tokens.trained
    if trained is not None:
      out["prompt_BT"] = np.zeros(T, bool)
    at, r = 0, self._order(epoch)[index]
    pieces = self._pieces[self._ends[r] : self._ends[r + 1]]
    for segment, p in enumerate(pieces.tolist(), 1):
      start, n = int(self._start[p]), int(self._size[p])
      here = slice(at, at + n)
      ids = self._tokens.ids
      out["target_BT"][here] = ids[start : start + n]
      out["tokens_BT"][at] = (
        self._tokens.start_id if self._is_first[p] else ids[start - 1]
      )
      out["tokens_BT"][at + 1 : at + n] = ids[start : start + n - 1]
      out["mask_BT"][here] = True
      if trained is not None:
        out["mask_BT"][here] = trained[start : start + n]
        out["prompt_BT"][here] = ~out["mask_BT"][here]
      out["segment_BT"][here] = segment
      out["position_BT"][here] = np.arange(n)
      at += n
    return out

  def width(self, epoch: int, index: int) -> int:
    if not self._alone:
      return self._length
    return int(self._size[self._pieces[self._order(epoch)[index]]])

  def _make_order(self, epoch: int) -> np.ndarray:
    if self._seed is None:
      return np.arange(len(self))
    return np.random.default_rng((*self._seed, epoch)).permutation(len(self))


def _best_fit(
  pieces: np.ndarray, size: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Best-fit decreasing: each piece into the fullest row with room for it.

  Returns:
    Pieces, row after row, and how many each row has.
  """
  by_size = pieces[np.argsort(-size[pieces], kind="stable")]
  rows: list[list[int]] = []
  with_room: dict[int, list[int]] = {}  # room left -> rows
  rooms: list[int] = []  # keys of `with_room`, sorted
  for p, n in zip(by_size.tolist(), size[by_size].tolist(), strict=True):
    i = bisect.bisect_left(rooms, n)
    if i == len(rooms):
      row, room = len(rows), length
      rows.append([])
    else:
      room = rooms[i]
      row = with_room[room].pop()
      if not with_room[room]:
        del with_room[room], rooms[i]
    rows[row].append(p)
    left = room - n
    if left:
      if left not in with_room:
        with_room[left] = []
        bisect.insort(rooms, left)
      with_room[left].append(row)
  pieces = np.fromiter(itertools.chain.from_iterable(rows), np.int64)
  return pieces, np.array([len(row) for row in rows])


def best_fit_abreast(
  pieces: np.ndarray, size_NG: np.ndarray, length: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Packs pieces that each need room in G rows side by side.

  Best-fit decreasing, as `BestFit`.

  Args:
    pieces: numbers of some, in any order.
    size_NG: of every piece, by its number; none is longer than a row.
    length: T, or that of each of the G.

  Returns:
    Pieces, row after row, and how many each row has.
  """
  packed, counts = [], []
  for at in range(0, len(pieces), _WINDOW):
    window = pieces[at : at + _WINDOW]
    order = np.argsort(-size_NG[window].max(1), kind="stable")
    rows: list[list[int]] = []
    shape = (len(window), size_NG.shape[1])
    room_RG = np.broadcast_to(length, shape).copy()
    for p in window[order].tolist():
      open_RG = room_RG[: len(rows) + 1]  # the last of them is new
      fits_R = (open_RG >= size_NG[p]).all(1)
      r = int(np.where(fits_R, -open_RG.sum(1), -np.inf).argmax())
      if r == len(rows):
        rows.append([])
      rows[r].append(p)
      room_RG[r] -= size_NG[p]
    packed += [p for row in rows for p in row]
    counts += [len(row) for row in rows]
  return np.array(packed), np.array(counts)


class InOrder:
  """Every token of a split as a target once, in stored order.

  Rows follow each other; the last is filled with padding, whose mask is False.
  """

  def __init__(self, tokens: Tokens, length: int):
    self._tokens, self._length = tokens, length
    if not len(tokens):
      raise ValueError("the split holds no documents")

  def __len__(self) -> int:
    return -(-len(self._tokens) // self._length)

  def row(self, epoch: int, index: int) -> Row:
    del epoch
    T, start = self._length, index * self._length
    ids = self._tokens.ids
    target = np.zeros(T, np.int32)
    n = min(T, len(ids) - start)
    target[:n] = ids[start : start + n]
    before = self._tokens.start_id if start == 0 else int(ids[start - 1])
    return {
      "tokens_BT": np.concatenate([[before], target[:-1]]).astype(np.int32),
      "target_BT": target,
      "mask_BT": np.arange(T) < n,
    }

  def width(self, epoch: int, index: int) -> int:
    del epoch, index
    return self._length


def plain(
  tokens: Tokens, length: int, packed: bool, seed: Sequence[int] | None
) -> Rows:
  """Rows of documents, packed whole or joined and cut.

  Args:
    tokens: of all documents.
    length: T.
    packed: whether documents stand apart.
    seed: numbers that orders are drawn from; None = as stored, all of it.
  """
  if packed:
    return BestFit(tokens, length, seed)
  if seed is None:
    return InOrder(tokens, length)
  return Cut(tokens, length, seed)
