"""A tokenizer with ids behind all others that stand for no text."""

from collections.abc import Sequence

import numpy as np

from llm_jax.contracts import Located, Marks, Tokenizer


class Extended:
  """The same text <-> ids; the new ids are sentinels, the first one first."""

  def __init__(self, tokenizer: Tokenizer, extra_ids: int):
    self.base = self._tokenizer = tokenizer
    first = tokenizer.vocab_size
    self.vocab_size = first + extra_ids
    self.pad_id, self.bos_id = tokenizer.pad_id, tokenizer.bos_id
    self.eos_id, self.role_ids = tokenizer.eos_id, tokenizer.role_ids
    self.start_id = tokenizer.start_id
    sentinels = tuple(range(first, self.vocab_size))
    self.marks: Marks = tokenizer.marks._replace(sentinels=sentinels)
    self.fingerprint = f"{tokenizer.fingerprint}+{extra_ids}"

  def encode(self, text: str) -> list[int]:
    return self._tokenizer.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return self._tokenizer.encode_batch(texts)

  def locate(self, texts: Sequence[str]) -> list[Located]:
    return self._tokenizer.locate(texts)

  def decode(self, ids: Sequence[int]) -> str:
    first = self._tokenizer.vocab_size
    return self._tokenizer.decode([i for i in ids if i < first])

  def token_bytes(self) -> np.ndarray:
    extra = self.vocab_size - self._tokenizer.vocab_size
    return np.pad(self._tokenizer.token_bytes(), (0, extra))
