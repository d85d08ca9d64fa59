"""Rows of text of which something is taken away, anew at each epoch.

What is drawn for a row depends on the seed, the epoch and the row's number
alone: rows are at random access, like those that they are made of.

Dimension key: T positions of a row; S those of a source; N pieces of text; G
rows side by side.
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from llm_jax.data import corruption, packing, sides
from llm_jax.data.corruption import Pair
from llm_jax.data.denoisers import Masked, Mixture, PrefixLM, Spans
from llm_jax.data.packing import Row, Rows
from llm_jax.data.sides import SourceSide
from llm_jax.data.tokens import Tokens
from llm_jax.data.words import Vocabulary

_DRAWS = 1  # told apart from what a packing draws
_FIXED = (0,)  # seed of what is taken away of held-out text


class Shape(NamedTuple):
  """What rows look like."""

  length: int  # T
  packed: bool  # whole documents, several a row; or the joined text, cut
  source: SourceSide


def parts(
  what: Masked | Spans | PrefixLM | Mixture,
  tokens: Tokens,
  shape: Shape,
  vocabulary: Vocabulary,
  seed: Sequence[int] | None,
) -> list[tuple[Rows, float]]:
  """Rows of each way to take something away, and its share of rows.

  Args:
    what: is taken away.
    tokens: of all documents.
    shape: of rows.
    vocabulary: of the tokens.
    seed: numbers that everything is drawn from; None = documents as stored,
      of which the same is taken away each time.

  Raises:
    ValueError: the tokenizer lacks an id that stands for what is taken away,
      or rows are too short.
  """
  if isinstance(what, Masked):
    return [(Hidden(what, tokens, shape, vocabulary, seed), 1.0)]
  if not isinstance(what, Mixture):
    return [(TakenOut(what, None, tokens, shape, vocabulary, seed), 1.0)]
  ways = what.parts
  weights = what.weights or (1.0,) * len(ways)
  modes = what.modes or (None,) * len(ways)
  seeds = [None if seed is None else (*seed, i) for i in range(len(ways))]
  made: list[Rows] = [
    TakenOut(way, mode, tokens, shape, vocabulary, own)
    for way, mode, own in zip(ways, modes, seeds, strict=True)
  ]
  return list(zip(made, weights, strict=True))


class Hidden:
  """Rows whose tokens are hidden where they stand.

  The target of a position is the token there. `mask_BT` and `asked_BT` have
  those chosen; special tokens are not. Held-out rows tell their padding by
  `segment_BT`, packed rows their documents. What the tokenizer puts before a
  text (BERT's [CLS]) stands first in a row of the joined text that is cut, and
  before each document of a packed one.
  """

  def __init__(
    self,
    what: Masked,
    tokens: Tokens,
    shape: Shape,
    vocabulary: Vocabulary,
    seed: Sequence[int] | None,
  ):
    self._what, self._vocabulary = what, vocabulary
    mask = vocabulary.marks.mask
    if mask is None:
      raise ValueError("--data.corruption (Masked): the tokenizer has no mask")
    self._mask = mask
    self._seed = _FIXED if seed is None else tuple(seed)
    first = np.array(sides.begins(vocabulary.tokenizer), np.int32)
    self._first = first[:0] if shape.packed else first
    if shape.packed and len(first):
      tokens = _begun(tokens, int(first[0]))
    length = shape.length - len(self._first)
    if length < 1:
      raise ValueError(
        f"--data.length={shape.length}: has room for nothing but what the"
        " tokenizer puts before a text"
      )
    self._rows = packing.plain(tokens, length, shape.packed, seed)
    self._tells_padding = seed is None and not shape.packed

  def __len__(self) -> int:
    return len(self._rows)

  def row(self, epoch: int, index: int) -> Row:
    w, out = self._what, self._rows.row(epoch, index)
    r = np.random.default_rng((*self._seed, epoch, index, _DRAWS))
    ids, real_T = out["target_BT"], out.pop("mask_BT")
    if len(self._first):
      ids = out["target_BT"] = np.concatenate([self._first, ids])
      real_T = np.concatenate([np.ones(1, bool), real_T])
    if self._tells_padding:
      out["segment_BT"] = real_T.astype(np.int32)
      out["position_BT"] = np.arange(len(ids), dtype=np.int32)
    if w.whole_words:
      segment_T = out.get("segment_BT", real_T)
      begins_T = np.diff(segment_T, prepend=0) != 0
      unit_T = self._vocabulary.words(ids, begins_T)
    else:
      unit_T = self._vocabulary.tokens(ids)
    chosen_T = corruption.choose(np.where(real_T, unit_T, -1), w.rate, r)
    shares, others = (w.masked, w.random), self._vocabulary.text_ids
    hidden = corruption.hide(ids, chosen_T, self._mask, others, shares, r)
    out["tokens_BT"] = hidden.astype(np.int32)
    return out | {"mask_BT": chosen_T, "asked_BT": chosen_T}

  def width(self, epoch: int, index: int) -> int:
    return self._rows.width(epoch, index) + len(self._first)


def _begun(tokens: Tokens, first: int) -> Tokens:
  """The same documents, in memory, each with an id before it."""
  offsets = np.asarray(tokens.offsets)
  ids = np.insert(np.asarray(tokens.ids), offsets[:-1], first)
  new = offsets + np.arange(len(offsets))
  return dataclasses.replace(tokens, ids=ids, offsets=new)


class TakenOut:
  """Rows of sources and targets; see `sides` for what is in them.

  A source that is apart begins as texts do (BART's <s>, as in its pretraining,
  arXiv:1910.13461), like one of instructions and like one that is asked.

  Args:
    what: is taken away.
    mode: that a source begins with.
    tokens: of all documents.
    shape: of rows. A cut text is one example a row, as long as there is room
      for; of documents several are packed, those too short to take anything
      away from left out.
    vocabulary: of the tokens.
    seed: as `parts` has it.
  """

  def __init__(
    self,
    what: Spans | PrefixLM,
    mode: str | None,
    tokens: Tokens,
    shape: Shape,
    vocabulary: Vocabulary,
    seed: Sequence[int] | None,
  ):
    self._what, self._shape, self._vocabulary = what, shape, vocabulary
    self._tokens, marks = tokens, vocabulary.marks
    before: list[int] = []
    if shape.source.length:
      before += sides.begins(vocabulary.tokenizer)
    if mode is not None:
      if mode not in marks.modes:
        raise ValueError(
          f"--data.corruption.modes={mode}: the tokenizer has no id for it"
        )
      before.append(marks.modes[mode])
    self._before = np.array(before, np.int32)
    self._seed = _FIXED if seed is None else tuple(seed)
    room_NG = self._room()
    longest = len(room_NG) - 1
    needed = what.num_sentinels(longest)
    if needed > len(marks.sentinels):
      raise ValueError(
        f"--tokenizer.extra_ids: the tokenizer has {len(marks.sentinels)} ids"
        f" for spans that are taken out, and a row has up to {needed}; one that"
        " is there already stays as it was made"
      )
    self._stream: Rows | None = None
    if not shape.packed:
      self._stream = packing.plain(tokens, longest, False, seed)
      return
    pieces = packing.cut_up(tokens, longest)
    whole_N = pieces.size > 1
    self._start, self._size = pieces.start[whole_N], pieces.size[whole_N]
    self._together = sides.Together(room_NG[self._size], self._lengths, seed)

  def __len__(self) -> int:
    return len(self._together if self._stream is None else self._stream)

  def pairs(self, epoch: int, index: int) -> list[Pair]:
    """Source and target of each example of a row."""
    r = np.random.default_rng((*self._seed, epoch, index, _DRAWS))
    out = []
    for ids in self._texts(epoch, index):
      pair = self._what.pair(ids, self._vocabulary, r)
      source = np.concatenate([self._before, pair.source])
      out.append(pair._replace(source=source))
    return out

  def row(self, epoch: int, index: int) -> Row:
    pairs = self.pairs(epoch, index)
    shape = self._shape
    if not shape.source.length:
      start_id = self._tokens.start_id
      return sides.in_one(pairs, shape.length, start_id, shape.packed)
    start_id = shape.source.start_id(self._vocabulary.tokenizer)
    return sides.in_two(pairs, shape.source.length, shape.length, start_id)

  def width(self, epoch: int, index: int) -> int:
    del epoch, index
    return self._shape.length

  @property
  def _lengths(self) -> tuple[int, ...]:
    source, length = self._shape.source.length, self._shape.length
    return (source, length) if source else (length,)

  def _room(self) -> np.ndarray:
    """Room in each of G rows that a text of 0, 1, ... ids takes, at most.

    Up to the longest that there is room for.
    """
    lengths, more = self._lengths, len(self._before)
    room: list[tuple[int, ...]] = []
    while True:
      size = len(room)
      if len(lengths) == 1:
        its: tuple[int, ...] = (more + self._what.total(size),)
      else:
        source, target = self._what.sizes(size)
        its = (more + source, target)
      if size and any(a > b for a, b in zip(its, lengths, strict=True)):
        break
      room.append(its)
    if len(room) < 3:
      raise ValueError(
        f"--data.length={self._shape.length}: too short to take anything away"
      )
    return np.array(room)

  def _texts(self, epoch: int, index: int) -> list[np.ndarray]:
    """Ids of the examples of a row."""
    if self._stream is not None:
      row = self._stream.row(epoch, index)
      return [row["target_BT"][row["mask_BT"]]]
    ids = self._tokens.ids
    examples = self._together(epoch, index)
    starts, sizes = self._start[examples], self._size[examples]
    return [
      ids[start : start + size].astype(np.int32)
      for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]


def gaps(
  made: Sequence[tuple[Rows, float]], vocabulary: Vocabulary, limit: int
) -> list[Pair]:
  """Examples with spans to be told, the same ones each time.

  Those whose target has an end within are left out: who writes it stops there.

  Args:
    made: as of `parts`.
    vocabulary: of the tokens.
    limit: how many at most. Any are a fair sample of each part.
  """
  marks, eos_id = vocabulary.marks, vocabulary.tokenizer.eos_id
  found: list[list[Pair]] = []
  for rows, _ in made:
    its: list[Pair] = []
    if not isinstance(rows, TakenOut):
      continue
    for i in np.random.default_rng(0).permutation(len(rows)).tolist():
      if len(its) >= limit:
        break
      its += [
        pair
        for pair in rows.pairs(0, i)
        if np.isin(pair.target, marks.sentinels).any()
        and (pair.target == eos_id).sum() == 1
      ]
    found.append(its)
  turns = itertools.zip_longest(*found)  # a part after the other
  return [p for turn in turns for p in turn if p is not None][:limit]


class Shared:
  """Rows of several parts as one epoch, spread evenly; of each its share.

  Args:
    parts: rows, and the share of them.
  """

  def __init__(self, parts: Sequence[tuple[Rows, float]]):
    self._parts = [rows for rows, _ in parts]
    most = max(share / len(rows) for rows, share in parts)
    counts = [max(round(share / most), 1) for _, share in parts]
    part = np.repeat(np.arange(len(counts)), counts)
    nth = np.concatenate([np.arange(n) for n in counts])
    order = np.argsort((nth + 0.5) / np.array(counts)[part], kind="stable")
    self._places = np.stack([part, nth], 1)[order]

  def __len__(self) -> int:
    return len(self._places)

  def row(self, epoch: int, index: int) -> Row:
    part, nth = self._places[index].tolist()
    return self._parts[part].row(epoch, nth)

  def width(self, epoch: int, index: int) -> int:
    part, nth = self._places[index].tolist()
    return self._parts[part].width(epoch, nth)
