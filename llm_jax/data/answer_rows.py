"""Conversations as sources and targets, for an encoder and a decoder.

Each answer is a target; its source is all that stands before it, and eos;
before it, what begins a text, if anything does. Of a source that is too long
its end is kept, of a target its beginning.

Dimension key: N answers; T positions of a row; S those of a source.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.data import sides
from llm_jax.data.corruption import Pair
from llm_jax.data.packing import Row
from llm_jax.data.tokens import Tokens


class Answers(NamedTuple):
  """Where answers stand in the ids of their conversations."""

  start: np.ndarray  # [N], of the source
  border: np.ndarray  # of the answer
  end: np.ndarray

  def moved(self, by: int) -> "Answers":
    """The same, of ids that stand behind `by` others."""
    return Answers(*(at + by for at in self))


class Fitted(NamedTuple):
  """Answers that rows have room for, and what was done to others."""

  pieces: Answers
  kept: np.ndarray  # conversations with an answer among them
  num: int  # answers there are
  num_long: int  # of these, longer than a row, or their sources
  longest: tuple[int, int]  # source and target


def fit(
  tokens: Tokens, source_length: int, length: int, drop: bool, around: int = 1
) -> Fitted:
  """All answers; a long one, or with a long source, is left out or cut.

  Args:
    tokens: of all conversations.
    source_length: S.
    length: T.
    drop: leave long ones out.
    around: ids around each source, eos among them.
  """
  assert tokens.trained is not None
  offsets = tokens.offsets
  inside = np.concatenate([[False], tokens.trained, [False]])
  # An answer may end a conversation, and the next one begin with another.
  parted = np.zeros(len(inside) - 1, bool)
  parted[offsets] = True
  border = np.flatnonzero(inside[1:] & (~inside[:-1] | parted))
  end = np.flatnonzero(inside[:-1] & (~inside[1:] | parted))
  of = np.searchsorted(offsets, border, side="right") - 1
  found = Answers(offsets[of], border, end)
  source_N, target_N = border - found.start + around, end - border
  long_N = (source_N > source_length) | (target_N > length)
  kept_N = ~long_N if drop else np.ones(len(long_N), bool)
  cut = Answers(
    np.maximum(found.start, border - (source_length - around)),
    border,
    np.minimum(end, border + length),
  )
  return Fitted(
    Answers(*(at[kept_N] for at in cut)),
    np.unique(of[kept_N]),
    len(border),
    int(long_N.sum()),
    (int(source_N.max(initial=0)), int(target_N.max(initial=0))),
  )


class AnswerRows:
  """Rows of sources and rows of answers, see `sides.in_two`.

  Args:
    tokens: of all conversations.
    answers: that rows have room for.
    lengths: S and T.
    frame: what stands around sources, and before answers.
    seed: numbers that the order is drawn from; None = as stored.
    alone: whether each has rows of its own.
  """

  def __init__(
    self,
    tokens: Tokens,
    answers: Answers,
    lengths: tuple[int, int],
    frame: sides.Frame,
    seed: Sequence[int] | None,
    alone: bool = False,
  ):
    self._tokens, self._answers, self._lengths = tokens, answers, lengths
    self._frame, self._alone = frame, alone
    start, border, end = answers
    size_N2 = np.stack([border - start + frame.around, end - border], 1)
    self._together = sides.Together(size_N2, lengths, seed, alone)

  def __len__(self) -> int:
    return len(self._together)

  def row(self, epoch: int, index: int) -> Row:
    here = map(self._pair, self._together(epoch, index))
    return sides.in_two(list(here), *self._lengths, self._frame.start_id)

  def width(self, epoch: int, index: int) -> int:
    if not self._alone:
      return self._lengths[1]
    (i,) = self._together(epoch, index)
    return int(self._answers.end[i] - self._answers.border[i])

  def _pair(self, i: int) -> Pair:
    start, border, end = (int(at[i]) for at in self._answers)
    ids = self._tokens.ids
    read = self._frame.source(ids[start:border], self._lengths[0])
    return Pair(read, ids[border:end].astype(np.int32))
