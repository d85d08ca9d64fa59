"""One id a byte: no training, any text."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Located
from llm_jax.tokenizers import places, special

EXTRA_IDS = (
  "ids behind all others that stand for no text: the sentinels of span"
  " corruption, one a span of a row"
)


@dataclasses.dataclass(frozen=True)
class Bytes:
  """UTF-8 bytes as ids, after the special ids. 268 ids in all, and extra."""

  extra_ids: int = field(0, EXTRA_IDS, low=0)


class ByteTokenizer:
  """Byte b is id `special.COUNT + b`."""

  vocab_size = special.COUNT + 256
  pad_id, bos_id, eos_id = special.PAD, special.BOS, special.EOS
  start_id = special.EOS
  role_ids, marks = special.ROLE_IDS, special.MARKS
  fingerprint = "bytes-1"

  def encode(self, text: str) -> list[int]:
    return [special.COUNT + b for b in utf8(text)]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def locate(self, texts: Sequence[str]) -> list[Located]:
    return places.lossless(texts, self.encode_batch(texts), self.token_bytes())

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids; ids that stand for no text, or none of ours, are out."""
    kept = (int(i) - special.COUNT for i in ids)
    data = bytes(b for b in kept if 0 <= b < 256)
    return data.decode("utf-8", errors="replace")

  def token_bytes(self) -> np.ndarray:
    return np.array([0] * special.COUNT + [1] * 256, np.int32)


def utf8(text: str) -> bytes:
  """Bytes of a text; ValueError where it holds half a surrogate pair."""
  try:
    return text.encode("utf-8")
  except UnicodeEncodeError as e:
    raise ValueError(
      f"character {e.start} of the text is {text[e.start]!r}, half of a"
      " surrogate pair, which is no Unicode text"
    ) from e
