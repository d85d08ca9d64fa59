"""What is read and what is written: in one row, or in two.

Dimension key: T positions of a row; S those of a source; G rows side by side.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Tokenizer
from llm_jax.data import packing
from llm_jax.data.corruption import Pair
from llm_jax.data.packing import Row


class Frame(NamedTuple):
  """Ids that stand around every source, and before every target."""

  begins: tuple[int, ...]
  end_id: int
  start_id: int

  @property
  def around(self) -> int:
    """How many ids stand around a source."""
    return len(self.begins) + 1

  def source(self, ids: np.ndarray, length: int) -> np.ndarray:
    """A source as it is read; of one that is too long the end is kept."""
    kept = ids[max(len(ids) - max(length - self.around, 0), 0) :]
    whole = np.concatenate([self.begins, kept, [self.end_id]])
    return whole[-length:].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class SourceSide:
  """Whether what is read is a row of its own, for an encoder."""

  length: int = field(
    0,
    "S, tokens of a source that an encoder reads; 0 = source and target are one"
    " row, which a decoder reads",
    low=0,
  )
  start: Literal["pad", "bos", "eos"] = field(
    "pad",
    "what stands before a target whose source is apart (T5: pad, BART: eos)",
  )

  def start_id(self, tokenizer: Tokenizer) -> int:
    """The id that `start` names."""
    ids = {
      "pad": tokenizer.pad_id,
      "bos": tokenizer.bos_id,
      "eos": tokenizer.eos_id,
    }
    return ids[self.start]

  def frame(self, tokenizer: Tokenizer) -> Frame:
    """What stands around sources, and before targets."""
    start_id = self.start_id(tokenizer)
    return Frame(begins(tokenizer), tokenizer.eos_id, start_id)


def check_twice(source: SourceSide, length: int) -> None:
  """ValueError where what is read is to be written again and is not as long."""
  if source.length not in (0, length):
    raise ValueError(
      f"--data.source.length={source.length}: an encoder reads the text that a"
      f" decoder reads again, of --data.length={length}; {length}"
    )


def letters(source: SourceSide) -> str:
  """Of the dims of rows whose target is the source again, see `batches`."""
  return "TS" if source.length else "T"


def begins(tokenizer: Tokenizer) -> tuple[int, ...]:
  """Ids before a source: what begins a text, unless that ends one (BART)."""
  start = tokenizer.start_id
  return () if start == tokenizer.eos_id else (start,)


def in_one(
  pairs: Sequence[Pair], length: int, start_id: int, several: bool
) -> Row:
  """Each source with its target behind it, in `prompt_BT` and `mask_BT`.

  Args:
    pairs: that the row has room for.
    length: T.
    start_id: stands before each source.
    several: with `segment_BT` and `position_BT`.
  """
  ids = [np.concatenate(pair) for pair in pairs]
  out = _written(ids, length, start_id)
  out["prompt_BT"] = np.zeros(length, bool)
  at = 0
  for pair in pairs:
    here = slice(at, at + len(pair.source))
    out["prompt_BT"][here], out["mask_BT"][here] = True, False
    at += len(pair.source) + len(pair.target)
  if not several:
    del out["segment_BT"], out["position_BT"]
  return out


def in_two(
  pairs: Sequence[Pair], source_length: int, length: int, start_id: int
) -> Row:
  """Sources in a row of S, targets in one of T; a pair has one segment.

  Args:
    pairs: that both rows have room for.
    source_length: S.
    length: T.
    start_id: stands before each target.
  """
  read = _side([pair.source for pair in pairs], source_length)
  out = {f"source_{name}BS": x for name, x in read.items()}
  return out | _written([pair.target for pair in pairs], length, start_id)


def _written(ids: Sequence[np.ndarray], length: int, start_id: int) -> Row:
  """Targets behind each other, and the tokens before them."""
  side = _side(ids, length)
  first = (side["position_"] == 0) & (side["segment_"] > 0)
  before = np.concatenate([[start_id], side[""][:-1]])
  tokens = np.where(first, start_id, before)
  real = side["segment_"] > 0
  return {
    "tokens_BT": np.where(real, tokens, 0).astype(np.int32),
    "target_BT": side[""],
    "mask_BT": real,
    "segment_BT": side["segment_"],
    "position_BT": side["position_"],
  }


def _side(ids: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
  """Texts behind each other, with their segments and positions."""
  sizes = [len(one) for one in ids]
  used = sum(sizes)
  out = {n: np.zeros(length, np.int32) for n in ("", "segment_", "position_")}
  out[""][:used] = np.concatenate(ids)
  out["segment_"][:used] = np.repeat(np.arange(1, len(ids) + 1), sizes)
  out["position_"][:used] = np.concatenate([np.arange(n) for n in sizes])
  return out


class Together:
  """Examples that stand in a row together, in an order of each epoch's own.

  Which are together does not change from epoch to epoch.

  Args:
    size_NG: how much room each needs in each of G rows side by side.
    lengths: of the G rows; no example is longer.
    seed: numbers that the order is drawn from; None = as given.
    alone: whether each has rows of its own.
  """

  def __init__(
    self,
    size_NG: np.ndarray,
    lengths: Sequence[int],
    seed: Sequence[int] | None,
    alone: bool = False,
  ):
    if not len(size_NG):
      raise ValueError("the split holds no documents")
    self._seed = None if seed is None else tuple(seed)
    order = np.arange(len(size_NG))
    if self._seed is not None:
      order = np.random.default_rng(self._seed).permutation(order)
    counts = np.ones(len(order), int)
    if not alone:
      order, counts = packing.best_fit_abreast(order, size_NG, lengths)
    self._examples, self._ends = order, np.cumsum([0, *counts])
    # Two, as epochs overlap in a prefetch.
    self._order = functools.lru_cache(maxsize=2)(self._make_order)

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __call__(self, epoch: int, index: int) -> list[int]:
    """Numbers of the examples of a row."""
    r = self._order(epoch)[index]
    return self._examples[self._ends[r] : self._ends[r + 1]].tolist()

  def _make_order(self, epoch: int) -> np.ndarray:
    if self._seed is None:
      return np.arange(len(self))
    return np.random.default_rng((*self._seed, epoch)).permutation(len(self))
