"""decode(encode(text)) == text, for every text; special ids stay special."""

import argparse
import functools
import pathlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import sentencepiece

from llm_jax.tokenizers import characters, special
from llm_jax.tokenizers import sentencepiece as pieces
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece

CORPUS = [
  pathlib.Path(argparse.__file__).read_text(encoding="utf-8")[:30_000],
  "def f(x):\n\tif x:\r\n    return  x + 1  # <pad> <0x0A> </s>\n\n" * 40,
  "The quick brown fox, naïve café: 自然言語 ▁ ▅ \x00 jumps over it. " * 60,
  "<s> <eos> <system> <unk> <0xFF> " * 50,
]
ODD = [
  *special.NAMES,
  *("<s>", "</s>", "<unk>", "<0x0A>", "<0xFF>", "▁", "▁▁", "▅", "\x00"),
  *("\n", "\t", "\r\n", " ", "   ", "\u00a0", "\ufeff", "\u2028", "\ufffd"),
  *("é", "e\u0301", "ﬁ", "🙂", "👩\u200d💻", "\U0010ffff", "\x7f", "\x85", "a"),
]
KINDS = ("bytes", "unigram", "bpe", "char")
texts = st.one_of(st.text(), st.lists(st.sampled_from(ODD)).map("".join))


@functools.cache
def tokenizer(kind):
  if kind == "bytes":
    return ByteTokenizer()
  if kind == "char":
    return characters.CharacterTokenizer(characters.learn(iter(CORPUS)), True)
  settings = SentencePiece(kind=kind, vocab_size=400)
  return pieces.SentencePieceTokenizer(pieces.train(settings, iter(CORPUS)))


def is_lossless(encode, decode, text):
  return decode(encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(deadline=None, max_examples=150, derandomize=True)
@hypothesis.given(text=texts)
def test_any_text_comes_back(kind, text):
  t = tokenizer(kind)
  ids = t.encode(text)
  assert t.decode(ids) == text
  assert t.encode_batch([text, "x", text]) == [ids, t.encode("x"), ids]
  assert all(special.COUNT <= i < t.vocab_size for i in ids)
  assert t.token_bytes()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_comes_back(kind):
  t = tokenizer(kind)
  points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
  lines = [
    "".join(map(chr, points[i : i + 4096])) for i in range(0, len(points), 4096)
  ]
  for line, ids in zip(lines, t.encode_batch(lines), strict=True):
    assert t.decode(ids) == line


@pytest.mark.parametrize("text", ["a▁b", " ▁", "▁"])
def test_mutant_the_library_alone_loses_its_own_space_mark(text):
  library = tokenizer("bpe")._library
  assert not is_lossless(library.encode, library.decode, text)
  assert is_lossless(tokenizer("bpe").encode, tokenizer("bpe").decode, text)


def test_mutant_the_library_as_it_comes_loses_white_space(tmp_path):
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS[1:2]),
    model_prefix=str(tmp_path / "m"),
    vocab_size=300,
    byte_fallback=True,
    hard_vocab_limit=False,
    minloglevel=3,
  )
  library = sentencepiece.SentencePieceProcessor(str(tmp_path / "m.model"))
  for text in ("a  b", "a\n\tb", " a"):
    assert not is_lossless(library.encode, library.decode, text)


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_are_distinct_and_never_text(kind):
  t = tokenizer(kind)
  ids = [t.pad_id, t.bos_id, t.eos_id, *t.role_ids.values()]
  assert len(set(ids)) == 7 and max(ids) < special.COUNT
  assert set(t.role_ids) == {"system", "user", "assistant", "end"}
  assert t.decode(ids) == "" and not t.token_bytes()[ids].any()
  assert len(t.token_bytes()) == t.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_decode(kind):
  t = tokenizer(kind)
  ids = t.encode("naïve 自然 🙂\n▁")
  for n in range(len(ids)):
    t.decode(ids[:n])  # cut inside a character
  # A model's vocabulary may be padded beyond the tokenizer's.
  assert t.decode([*ids, t.vocab_size, 10**6, -1]) == t.decode(ids)
  assert t.decode(np.array(ids, np.int32)) == t.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_is_refused(kind):
  with pytest.raises(ValueError, match="character 1 .*surrogate"):
    tokenizer(kind).encode("a\ud800")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_same_corpus_same_model_and_fewer_ids_than_bytes(kind):
  t = tokenizer(kind)
  settings = SentencePiece(kind=kind, vocab_size=400)
  assert (
    pieces.train(settings, iter(CORPUS)) == t._library.serialized_model_proto()
  )
  other = pieces.train(settings, iter([c + "z" * 9 for c in CORPUS]))
  assert pieces.SentencePieceTokenizer(other).fingerprint != t.fingerprint
  assert t.vocab_size == 400
  text = CORPUS[0]
  assert len(t.encode(text)) < 0.75 * len(text)


def test_a_character_of_the_corpus_is_one_id():
  t = tokenizer("char")
  found = set("".join(CORPUS))
  assert t.vocab_size == special.COUNT + len(found) + 256
  for c in found:
    assert len(t.encode(c)) == 1
  assert len(t.encode("ß")) == 2  # not of the corpus: its two bytes
