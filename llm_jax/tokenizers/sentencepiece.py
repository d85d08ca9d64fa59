"""SentencePiece (arXiv:1808.06226), trained here and made lossless.

The library reads a space as "▁" (U+2581) and so cannot tell the two apart.
Here text is cut at that mark, which is written as its three bytes; ids are
turned back into bytes by a table, never by the library, and what the library
gives is checked against the text. Every other character, NUL included, passes
through the library whole (normalisation "identity", spaces as they are), and
names of special ids ("<eos>", "<0x0A>") in a text are plain text to it.
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
from llm_jax.contracts import Located
from llm_jax.tokenizers import places, special
from llm_jax.tokenizers.bytes import EXTRA_IDS, utf8
from llm_jax.tokenizers.characters import join

SPACE = "\u2581"
_UNKNOWN_MARK = "\u2585"  # text that holds it is passed over by the trainer
_PART = 2000  # characters given to the trainer at once
_THREADS = 4  # fixed: sums of the trainer are made thread by thread


@dataclasses.dataclass(frozen=True)
class SentencePiece:
  """A vocabulary learned from the corpus, kept in the run folder."""

  kind: Literal["unigram", "bpe", "char"] = field(
    "bpe", "how pieces are found; char = the corpus's characters"
  )
  vocab_size: int = field(
    4096,
    "ids, special and byte ids included, extra ones not; char: not read",
    low=1,
  )
  byte_fallback: bool = field(
    True, "ids for 256 bytes, for unseen characters; only char can be without"
  )
  train_bytes: int = field(
    4_000_000, "text to learn from, bytes of UTF-8; char: all of it", low=1
  )
  extra_ids: int = field(0, EXTRA_IDS, low=0)

  def __post_init__(self) -> None:
    if self.kind != "char" and not self.byte_fallback:
      raise ValueError(
        "--tokenizer.byte_fallback=false: only --tokenizer.kind=char can do"
        f" without bytes, not {self.kind}"
      )


def train(settings: SentencePiece, texts: Iterator[str]) -> bytes:
  """The library's model, learned from the first `train_bytes` of the texts.

  The same texts make the same model.

  Raises:
    ValueError: no text, or a vocabulary larger than the text supports, or
      one too small for the bytes and the text's common characters.
  """
  fixed = special.COUNT + 256
  if settings.vocab_size <= fixed:
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
      vocab_size=settings.vocab_size,
      hard_vocab_limit=True,
      byte_fallback=True,
      character_coverage=0.9995,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      split_digits=True,
      max_sentence_length=8 * _PART,
      pad_id=special.PAD,
      bos_id=special.BOS,
      eos_id=special.EOS,
      unk_id=special.UNKNOWN,
      pad_piece=special.NAMES[special.PAD],
      bos_piece=special.NAMES[special.BOS],
      eos_piece=special.NAMES[special.EOS],
      unk_piece=special.NAMES[special.UNKNOWN],
      control_symbols=list(special.NAMES[special.UNKNOWN + 1 :]),
      num_threads=_THREADS,
      minloglevel=3,
    )
  except (RuntimeError, OSError) as e:
    raise ValueError(_explain(settings, str(e))) from e
  return out.getvalue()


class SentencePieceTokenizer:
  """Text <-> ids by a trained model; `decode(encode(text)) == text`."""

  pad_id, bos_id, eos_id = special.PAD, special.BOS, special.EOS
  start_id = special.EOS
  role_ids, marks = special.ROLE_IDS, special.MARKS

  def __init__(self, model: bytes):
    library: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
    self._library = library
    self.vocab_size = library.vocab_size()
    self._bytes: list[bytes] = [b""] * self.vocab_size
    self._byte_ids = [0] * 256
    for i in range(self.vocab_size):
      piece = library.id_to_piece(i)
      if library.is_byte(i):
        byte = int(piece[3:5], 16)
        self._bytes[i], self._byte_ids[byte] = bytes([byte]), i
      elif not (library.is_control(i) or library.is_unknown(i)):
        self._bytes[i] = piece.replace(SPACE, " ").encode()
    self.fingerprint = hashlib.blake2b(
      b"sentencepiece-2" + model, digest_size=16
    ).hexdigest()

  def encode(self, text: str) -> list[int]:
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    for text in texts:
      utf8(text)
    parts = [text.split(SPACE) for text in texts]
    flat = [part for of_text in parts for part in of_text]
    encoded = self._library.encode(flat, num_threads=_THREADS)
    found = map(self._checked, flat, encoded)
    mark, out = self._as_bytes(SPACE), []
    for of_text in parts:
      ids = next(found)
      for _ in of_text[1:]:
        ids += mark
        ids += next(found)
      out.append(ids)
    return out

  def locate(self, texts: Sequence[str]) -> list[Located]:
    return places.lossless(texts, self.encode_batch(texts), self.token_bytes())

  def decode(self, ids: Sequence[int]) -> str:
    return join(self._bytes, ids).decode("utf-8", errors="replace")

  def token_bytes(self) -> np.ndarray:
    return np.array([len(b) for b in self._bytes], np.int32)

  def pieces(self) -> list[tuple[str, float]]:
    """Every piece as the library writes it, with its score."""
    its = self._library
    return [(its.id_to_piece(i), its.get_score(i)) for i in range(len(its))]

  @property
  def is_unigram(self) -> bool:
    """Whether its pieces are those of a unigram model; else they are merged."""
    return any(score % 1 for _, score in self.pieces())  # merges are numbered

  def _as_bytes(self, text: str) -> list[int]:
    return [self._byte_ids[b] for b in text.encode()]

  def _checked(self, text: str, ids: Sequence[int]) -> list[int]:
    # No text is known for which they differ; a library may change.
    same = join(self._bytes, ids) == text.encode()
    return list(ids) if same else self._as_bytes(text)


def _parts(texts: Iterator[str], limit: int) -> Iterator[str]:
  """Parts of the texts that the trainer can read, at most `limit` bytes."""
  for text in texts:
    for at in range(0, len(text), _PART):
      part = text[at : at + _PART]
      limit -= len(utf8(part))
      if limit < 0:
        return
      # Read as a space, so a wrong count would be learned; or not read.
      yield from filter(None, re.split(f"[{SPACE}{_UNKNOWN_MARK}]", part))


def _explain(settings: SentencePiece, error: str) -> str:
  """The library's message as one line about our flags."""
  if "!sentences_.empty()" in error:
    return (
      f"--tokenizer.train_bytes={settings.train_bytes}: the corpus holds no"
      " text to learn from within as many bytes"
    )
  flag = f"--tokenizer.vocab_size={settings.vocab_size}: "
  if found := re.search(r"value\s*<=\s*(\d+)", error):
    return f"{flag}the corpus supports at most {found.group(1)}"
  if found := re.search(r"required_chars\D*\d+ vs (\d+)", error):
    return f"{flag}the corpus's characters and bytes need {found.group(1)}"
  return f"{flag}the corpus does not support it ({' '.join(error.split())})"
