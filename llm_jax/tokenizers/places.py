"""Where in a text the pieces stand that a lossless tokenizer cut it into.

Dimension key: N pieces; 2 = (begin, end).
"""

from collections.abc import Sequence

import numpy as np

from llm_jax.contracts import Located


def of_bytes(text: str, size_N: np.ndarray) -> np.ndarray:
  """From which to which character each piece goes, [N, 2] i32.

  Args:
    text: that the pieces are all of.
    size_N: bytes of UTF-8 of each. Pieces of less than a character each have
      all of it.
  """
  code = np.frombuffer(text.encode("utf-32-le"), np.uint32)
  width = 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
  # Of each byte, and of one behind the last, its character.
  character = np.append(np.repeat(np.arange(len(code)), width), len(code))
  end_N = np.cumsum(size_N)
  begin_N = end_N - size_N
  last_N = np.maximum(end_N - 1, begin_N)
  place_N2 = np.stack([character[begin_N], character[last_N] + 1], 1)
  return np.minimum(place_N2, len(code)).astype(np.int32)


def lossless(
  texts: Sequence[str], ids: Sequence[list[int]], token_bytes: np.ndarray
) -> list[Located]:
  """Texts with all of their ids; `token_bytes` are those of each id, [V]."""
  return [
    Located(its, of_bytes(text, token_bytes[np.array(its, int)]))
    for text, its in zip(texts, ids, strict=True)
  ]
