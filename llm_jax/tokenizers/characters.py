"""One id a character of the corpus.

SentencePiece's own `char` model leaves out tabs, NUL and its own marks, so the
vocabulary is made here: every character that the corpus holds.
"""

from collections.abc import Iterable, Iterator, Sequence
import hashlib

import numpy as np

from llm_jax.contracts import Located
from llm_jax.tokenizers import places, special
from llm_jax.tokenizers.bytes import utf8


def learn(texts: Iterator[str]) -> str:
  """All characters of the texts, by code point."""
  found: set[str] = set()
  for text in texts:
    utf8(text)
    found.update(text)
  if not found:
    raise ValueError("the corpus holds no text to make a vocabulary of")
  return "".join(sorted(found))


class CharacterTokenizer:
  """Special ids, then characters, then (with `byte_fallback`) 256 bytes.

  A character of the corpus has one id. Another is written as its UTF-8 bytes,
  or is an error that names it.
  """

  pad_id, bos_id, eos_id = special.PAD, special.BOS, special.EOS
  start_id = special.EOS
  role_ids, marks = special.ROLE_IDS, special.MARKS

  def __init__(self, characters: str, byte_fallback: bool):
    self.characters = characters
    self._bytes = [b""] * special.COUNT + [c.encode() for c in characters]
    self._ids = {c: special.COUNT + i for i, c in enumerate(characters)}
    self._first_byte = len(self._bytes) if byte_fallback else None
    if byte_fallback:
      self._bytes += [bytes([b]) for b in range(256)]
    self.vocab_size = len(self._bytes)
    self.fingerprint = hashlib.blake2b(
      f"characters-1 {byte_fallback} {characters}".encode(), digest_size=16
    ).hexdigest()

  def encode(self, text: str) -> list[int]:
    ids = list(map(self._ids.get, text))
    if None not in ids:
      return ids  # type: ignore[return-value]
    utf8(text)
    pairs = zip(text, ids, strict=True)
    return [i for c, known in pairs for i in self._of(c, known)]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def locate(self, texts: Sequence[str]) -> list[Located]:
    return places.lossless(texts, self.encode_batch(texts), self.token_bytes())

  def decode(self, ids: Sequence[int]) -> str:
    return join(self._bytes, ids).decode("utf-8", errors="replace")

  def token_bytes(self) -> np.ndarray:
    return np.array([len(b) for b in self._bytes], np.int32)

  def _of(self, character: str, known: int | None) -> list[int]:
    if known is not None:
      return [known]
    if self._first_byte is None:
      raise ValueError(
        f"character {character!r} is not in the vocabulary; train on text"
        " that has it, or set --tokenizer.byte_fallback"
      )
    return [self._first_byte + b for b in character.encode()]


def join(table: Sequence[bytes], ids: Iterable[int]) -> bytes:
  """The bytes that ids stand for.

  A model may have more rows than the vocabulary; those stand for no text.
  """
  return b"".join(table[i] for i in map(int, ids) if 0 <= i < len(table))
