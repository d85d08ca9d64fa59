"""One text or two between special ids: what is read to tell something of it.

An encoder-decoder reads it as a source, and writes it again behind the id that
its targets begin with (BART, arXiv:1910.13461, section 3.1): at the place of a
token the decoder has seen all those before it, and the encoder every one.

Dimension key: T positions of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Tokenizer
from llm_jax.data import sides
from llm_jax.data.corruption import Pair
from llm_jax.data.packing import Row
from llm_jax.data.sides import SourceSide

Ids = Sequence[int] | np.ndarray


class Framed(NamedTuple):
  """What a row holds, without its padding.

  `first_id` is what a target begins with, of which the ids are the source, too;
  None = there is but one row of ids.
  """

  ids: np.ndarray  # i32
  types: np.ndarray  # i32: 0 of the first text, 1 of the second
  first_id: int | None = None

  def row(self, length: int) -> Row:
    """Arrays of T positions; `mask_BT` is empty, for others to mark.

    The target of a position is the token there; of padding, segment is 0.
    """
    if self.first_id is not None:
      twice = [Pair(self.ids, self.ids)]
      both = sides.in_two(twice, length, length, self.first_id)
      return both | {"mask_BT": np.zeros(length, bool)}
    size = len(self.ids)
    names = ("tokens_BT", "target_BT", "segment_BT", "position_BT", "type_BT")
    out = {name: np.zeros(length, np.int32) for name in names}
    out["tokens_BT"][:size] = out["target_BT"][:size] = self.ids
    out["type_BT"][:size] = self.types
    out["segment_BT"][:size], out["position_BT"][:size] = 1, np.arange(size)
    return out | {"mask_BT": np.zeros(length, bool)}


class Frame(NamedTuple):
  """Ids around texts: start a eos, or start a eos b eos.

  With BERT's tokenizer [CLS] a [SEP] b [SEP], as in Devlin et al. 2018,
  arXiv:1810.04805, section 3; with RoBERTa's two eos are between. With T5's,
  which has no start, a eos.
  """

  start_id: int | None  # None = there is none
  eos_id: int
  between: int = 1  # eos between two texts
  first_id: int | None = None  # see `Framed`

  @classmethod
  def of(
    cls,
    tokenizer: Tokenizer,
    between: int = 1,
    source: SourceSide = SourceSide(),
  ) -> "Frame":
    """With the special ids of a tokenizer, around a source if it is one."""
    eos_id = tokenizer.eos_id
    if not source.length:
      return cls(tokenizer.start_id, eos_id, between)
    start_id = next(iter(sides.begins(tokenizer)), None)
    return cls(start_id, eos_id, between, source.start_id(tokenizer))

  @property
  def before(self) -> int:
    """How many special ids are before the first text."""
    return 0 if self.start_id is None else 1

  def added(self, pair: bool) -> int:
    """How many special ids are around one text, or a pair."""
    return self.before + 1 + (self.between if pair else 0)

  def __call__(self, first: Ids, second: Ids | None = None) -> Framed:
    """The ids of a text, or of two, with what is around them."""
    start, eos = [self.start_id][: self.before], [self.eos_id]
    if second is None:
      ids = np.concatenate([start, first, eos]).astype(np.int32)
      return Framed(ids, np.zeros(len(ids), np.int32), self.first_id)
    before = np.concatenate([start, first, eos * self.between])
    ids = np.concatenate([before, second, eos]).astype(np.int32)
    types = (np.arange(len(ids)) >= len(before)).astype(np.int32)
    return Framed(ids, types, self.first_id)


def shortened(first: int, second: int, room: int) -> tuple[int, int]:
  """Sizes of two texts of which the longer one loses its end.

  Where both lose theirs each has half, and the longer one, or the second of
  two alike, what is left of an odd room.
  """
  if first > second:
    second = min(second, room // 2)
    return min(first, room - second), second
  first = min(first, room // 2)
  return first, min(second, room - first)
