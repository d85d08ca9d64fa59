"""SentencePiece (arXiv:1808.06226), trained here and made lossless.

The library reads a space as "▁" (U+2581) and so cannot tell the two apart,
and has ids for what it does not know. Here text is cut at such characters,
which are written as their UTF-8 bytes; ids are turned back into bytes by a
table, never by the library.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import io
import re
from typing import Any, Literal

import numpy as np
import sentencepiece

from llm_jax.config import field
from llm_jax.tokenizers import special
from llm_jax.tokenizers.bytes import utf8

SPACE = "\u2581"
PART = 2000  # characters given to the trainer at once


@dataclasses.dataclass(frozen=True)
class SentencePiece:
  """A vocabulary learned from the corpus, kept in the run folder."""

  kind: Literal["unigram", "bpe", "char"] = field(
    "bpe", "how pieces are found; char = the corpus's characters"
  )
  vocab_size: int = field(
    4096, "ids, special and byte ids included; char: not read", low=1
  )
  byte_fallback: bool = field(
    True, "write unseen characters as bytes; off: such text is an error"
  )
  train_bytes: int = field(
    4_000_000, "text to learn from, bytes of UTF-8", low=1
  )


def train(settings: SentencePiece, texts: Iterator[str]) -> bytes:
  """The library's model, learned from the first `train_bytes` of the texts.

  Raises:
    ValueError: no text, or a vocabulary larger than the text supports.
  """
  is_char = settings.kind == "char"
  fixed = special.COUNT + (0 if is_char else 256)
  if not is_char and settings.vocab_size <= fixed:
    raise ValueError(
      f"--tokenizer.vocab_size={settings.vocab_size}: {fixed} ids are"
      " special or bytes; give more"
    )
  out = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_parts(texts, settings.train_bytes),
      model_writer=out,
      model_type=settings.kind,
      vocab_size=2**20 if is_char else settings.vocab_size,
      hard_vocab_limit=not is_char,
      byte_fallback=not is_char,
      character_coverage=1.0 if is_char else 0.9995,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      split_digits=True,
      max_sentence_length=8 * PART,
      pad_id=special.PAD,
      bos_id=special.BOS,
      eos_id=special.EOS,
      unk_id=special.UNKNOWN,
      pad_piece=special.NAMES[special.PAD],
      bos_piece=special.NAMES[special.BOS],
      eos_piece=special.NAMES[special.EOS],
      unk_piece=special.NAMES[special.UNKNOWN],
      control_symbols=list(special.NAMES[special.UNKNOWN + 1 :]),
      num_threads=4,
      minloglevel=3,
    )
  except (RuntimeError, OSError) as e:
    found = re.search(r"value\s*<=\s*(\d+)", str(e))
    most = f"at most {found.group(1)}" if found else "fewer"
    raise ValueError(
      f"--tokenizer.vocab_size={settings.vocab_size}: the corpus supports"
      f" {most}" + ("" if found else f" ({str(e).strip().splitlines()[-1]})")
    ) from e
  return out.getvalue()


class SentencePieceTokenizer:
  """Text <-> ids by a trained model; `decode(encode(text)) == text`."""

  pad_id, bos_id, eos_id = special.PAD, special.BOS, special.EOS
  role_ids = special.ROLE_IDS

  def __init__(self, settings: SentencePiece, model: bytes):
    self._settings, self.model = settings, model
    self._library = sentencepiece.SentencePieceProcessor(model_proto=model)
    library: Any = self._library
    size = library.vocab_size()
    self._bytes: list[bytes] = [b""] * size
    byte_ids = {}
    for i in range(size):
      piece = library.id_to_piece(i)
      if library.is_byte(i):
        self._bytes[i] = bytes([int(piece[3:5], 16)])
        byte_ids[self._bytes[i][0]] = i
      elif not (library.is_control(i) or library.is_unknown(i)):
        self._bytes[i] = piece.replace(SPACE, " ").encode()
    if settings.kind == "char":
      self._characters = {b.decode(): i for i, b in enumerate(self._bytes) if b}
      if settings.byte_fallback:
        byte_ids = {b: size + b for b in range(256)}
        self._bytes += [bytes([b]) for b in range(256)]
    self._byte_ids = byte_ids
    self.vocab_size = len(self._bytes)
    self.fingerprint = hashlib.blake2b(
      model + repr(settings).encode(), digest_size=16
    ).hexdigest()

  def encode(self, text: str) -> list[int]:
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    for text in texts:
      utf8(text)
    if self._settings.kind == "char":
      return [self._encode_characters(text) for text in texts]
    parts = [text.split(SPACE) for text in texts]
    found = iter(
      self._library.encode([p for ps in parts for p in ps], num_threads=4)
    )
    mark = [self._byte_ids[b] for b in SPACE.encode()]
    out = []
    for text, ps in zip(texts, parts, strict=True):
      ids = list(next(found))
      for _ in ps[1:]:
        ids += mark
        ids += next(found)
      if special.UNKNOWN in ids or self._join(ids) != text.encode():
        ids = [self._byte_ids[b] for b in text.encode()]
      out.append(ids)
    return out

  def decode(self, ids: Sequence[int]) -> str:
    return self._join(ids).decode("utf-8", errors="replace")

  def token_bytes(self) -> np.ndarray:
    return np.array([len(b) for b in self._bytes], np.int32)

  def _join(self, ids: Sequence[int]) -> bytes:
    # Rows of the model beyond the vocabulary stand for no text.
    return b"".join(
      self._bytes[i] for i in map(int, ids) if i < self.vocab_size
    )

  def _encode_characters(self, text: str) -> list[int]:
    ids = []
    for character in text:
      known = self._characters.get(character)
      if known is not None:
        ids.append(known)
      elif self._byte_ids:
        ids += [self._byte_ids[b] for b in character.encode()]
      else:
        raise ValueError(
          f"character {character!r} is not in the vocabulary; train on text"
          " that has it, or set --tokenizer.byte_fallback"
        )
    return ids


def _parts(texts: Iterator[str], limit: int) -> Iterator[str]:
  """Parts of the texts, at most `limit` bytes in all."""
  for text in texts:
    for at in range(0, len(text), PART):
      part = text[at : at + PART]
      limit -= len(utf8(part))
      if limit < 0:
        return
      # The library reads it as a space, so it would learn a wrong count.
      yield part.replace(SPACE, " ")
