"""Text taken away, to be given back: pure functions of ids and a generator.

Masking hides tokens where they stand. All else cuts a text into a source, which
is read, and a target, which is written. Each has an inverse that gives the very
ids again.

Dimension key: T ids of a text; N spans of it that are taken, M that are left; U
units, which are hidden whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
  """Ids that are read, and ids to be written."""

  source: np.ndarray
  target: np.ndarray


def choose(
  unit_T: np.ndarray, rate: float, r: np.random.Generator
) -> np.ndarray:
  """Which ids to hide, [T] bool: whole units, in a random order.

  They are `rate` of all candidates in expectation, and never a unit more or
  less than that.

  Args:
    unit_T: the number of each id's unit; -1 = it may not be hidden.
    rate: from 0 to 1.
    r: draws.
  """
  units, place_T = np.unique(unit_T, return_inverse=True)
  size_U = np.bincount(place_T) * (units >= 0)
  order_U = r.permutation(len(units))
  size_U = size_U[order_U]
  before_U = np.cumsum(size_U) - size_U
  # Of the unit that crosses the border, by chance, that share.
  left_U = rate * size_U.sum() - before_U
  taken_U = r.random() * size_U < np.minimum(left_U, size_U)
  out_U = np.zeros(len(units), bool)
  out_U[order_U] = taken_U
  return out_U[place_T]


def hide(
  ids: np.ndarray,
  chosen_T: np.ndarray,
  mask_id: int,
  others: np.ndarray,
  shares: tuple[float, float],
  r: np.random.Generator,
) -> np.ndarray:
  """The ids, those chosen replaced. BERT, arXiv:1810.04805, section 3.1.

  Args:
    ids: [T].
    chosen_T: which are to be told.
    mask_id: stands for most of them.
    others: ids of which random ones stand for some.
    shares: of those chosen that become `mask_id`, and one of `others`; the
      rest stay as they are.
    r: draws.
  """
  masked, random = shares
  drawn_T = r.random(len(ids))
  random_T = others[r.integers(len(others), size=len(ids))]
  hidden_T = np.where(drawn_T < masked, mask_id, random_T)
  return np.where(chosen_T & (drawn_T < masked + random), hidden_T, ids)


def reveal(
  tokens: np.ndarray, target: np.ndarray, chosen_T: np.ndarray
) -> np.ndarray:
  """The inverse of `hide`, of which targets are only known where chosen."""
  return np.where(chosen_T, target, tokens)


def counts(size: int, density: float, mean_span: float) -> tuple[int, int]:
  """How many of `size` ids are taken away, and in how many spans.

  T5, arXiv:1910.10683, section 3.3.4: numbers that do not depend on chance.

  Args:
    size: T.
    density: share to take; at least one id is taken, and one is left.
    mean_span: ids of a span; 0 = all in one.
  """
  if size < 2:
    return 0, 0
  num = min(max(round(size * density), 1), size - 1)
  spans = max(round(num / max(mean_span, 1)), 1) if mean_span else 1
  return num, min(spans, num, size - num)


def noise(
  size: int, num: int, spans: int, r: np.random.Generator
) -> np.ndarray:
  """Which ids are taken away, [T] bool: `num`, in `spans` spans.

  All ways to do that are alike likely. (T5's released code always takes the
  last id, so that a short text would always lose its end.)
  """
  if not num:
    return np.zeros(size, bool)
  taken_N = _parts(num, spans, r)
  left_M = _parts(size - num + 2, spans + 1, r)  # before, between and behind
  left_M[[0, -1]] -= 1
  sizes = np.insert(left_M, np.arange(1, spans + 1), taken_N)
  return np.repeat(np.arange(2 * spans + 1) % 2 == 1, sizes)


def _parts(size: int, count: int, r: np.random.Generator) -> np.ndarray:
  """Sizes of `count` parts, none empty; all ways to part are alike likely."""
  ends = 1 + np.sort(r.choice(size - 1, count - 1, replace=False))
  return np.diff(ends, prepend=0, append=size)


def take_out(
  ids: np.ndarray,
  taken_T: np.ndarray,
  sentinels: Sequence[int],
  eos_id: int,
  final: bool = False,
) -> Pair:
  """Spans taken out, each with a sentinel in its place; `eos_id` ends both.

  T5, arXiv:1910.10683, figure 2: the target has each sentinel, then its span.

  Args:
    ids: [T], no sentinel among them.
    taken_T: which are in the target.
    sentinels: one a span at least, and one more if `final`.
    eos_id: the last id of source and target.
    final: the target's last span is followed by the next sentinel, too.
  """
  first_T = taken_T & ~np.concatenate([[False], taken_T[:-1]])
  spans = int(first_T.sum())
  marks = np.asarray(sentinels[: spans + final], ids.dtype)
  span_T = np.cumsum(first_T) - 1
  source = ids.copy()
  source[first_T] = marks[span_T[first_T]]
  places = np.flatnonzero(first_T[taken_T])
  target = np.insert(ids[taken_T], places, marks[:spans])
  end = np.array([eos_id], ids.dtype)
  return Pair(
    np.concatenate([source[first_T | ~taken_T], end]),
    np.concatenate([target, marks[spans:], end]),
  )


def put_back(pair: Pair, sentinels: Sequence[int]) -> np.ndarray:
  """The inverse of `take_out`; a sentinel without a span stands for nothing."""
  source, spans = pair.source[:-1], told(pair.target[:-1], sentinels)
  places = np.flatnonzero(np.isin(source, sentinels)).tolist()
  out, at = [], 0
  for place in places:
    out += [source[at:place], spans.get(int(source[place]), source[:0])]
    at = place + 1
  return np.concatenate([*out, source[at:]])


def told(target: np.ndarray, sentinels: Sequence[int]) -> dict[int, np.ndarray]:
  """The span that follows each sentinel of a target, by the sentinel."""
  borders = np.flatnonzero(np.isin(target, sentinels))
  ends = [*borders[1:].tolist(), len(target)]
  return {
    int(target[a]): target[a + 1 : b]
    for a, b in zip(borders.tolist(), ends, strict=False)
  }


def split(
  ids: np.ndarray, shares: tuple[float, float], r: np.random.Generator
) -> Pair:
  """A beginning and the rest, neither empty (prefix language modelling).

  T5, arXiv:1910.10683, section 3.3.1.

  Args:
    ids: [T], two at least; of one, the beginning is empty.
    shares: of the ids in the beginning, at least and at most; all numbers
      within are alike likely.
    r: draws.
  """
  low, high = split_bounds(len(ids), shares)
  at = int(r.integers(low, high + 1))
  return Pair(ids[:at], ids[at:])


def split_bounds(size: int, shares: tuple[float, float]) -> tuple[int, int]:
  """Ids in a beginning, at least and at most."""
  last = max(size - 1, 0)
  low = min(max(int(np.ceil(shares[0] * size)), 1), last)
  return low, max(min(int(shares[1] * size), last), low)


def join(pair: Pair) -> np.ndarray:
  """The inverse of `split`."""
  return np.concatenate(pair)
