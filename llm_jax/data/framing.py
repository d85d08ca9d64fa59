"""One text or two between special ids: what is read to tell something of it.

Dimension key: T positions of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.contracts import Tokenizer
from llm_jax.data.packing import Row

Ids = Sequence[int] | np.ndarray


class Framed(NamedTuple):
  """What a row holds, without its padding."""

  ids: np.ndarray  # i32
  types: np.ndarray  # i32: 0 of the first text, 1 of the second

  def row(self, length: int) -> Row:
    """Arrays of T positions; `mask_BT` is empty, for others to mark.

    The target of a position is the token there; of padding, segment is 0.
    """
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
  arXiv:1810.04805, section 3; with RoBERTa's two eos are between.
  """

  start_id: int
  eos_id: int
  between: int = 1  # eos between two texts

  @classmethod
  def of(cls, tokenizer: Tokenizer, between: int = 1) -> "Frame":
    """With the special ids of a tokenizer."""
    return cls(tokenizer.start_id, tokenizer.eos_id, between)

  def added(self, pair: bool) -> int:
    """How many special ids are around one text, or a pair."""
    return 2 + self.between if pair else 2

  def __call__(self, first: Ids, second: Ids | None = None) -> Framed:
    """The ids of a text, or of two, with what is around them."""
    start, eos = [self.start_id], [self.eos_id]
    if second is None:
      ids = np.concatenate([start, first, eos]).astype(np.int32)
      return Framed(ids, np.zeros(len(ids), np.int32))
    before = np.concatenate([start, first, eos * self.between])
    ids = np.concatenate([before, second, eos]).astype(np.int32)
    return Framed(ids, (np.arange(len(ids)) >= len(before)).astype(np.int32))


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
