"""Words, told from ids alone."""

import argparse
import pathlib
import re

import numpy as np
import pytest

from llm_jax.data.words import Vocabulary
from llm_jax.tokenizers import characters
from llm_jax.tokenizers import sentencepiece as pieces
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece

TEXT = pathlib.Path(argparse.__file__).read_text(encoding="utf-8")[:20_000]


def tokenizers():
  yield ByteTokenizer()
  yield characters.CharacterTokenizer(characters.learn(iter([TEXT])), True)
  for kind in ("bpe", "unigram"):
    settings = SentencePiece(kind=kind, vocab_size=400)
    yield pieces.SentencePieceTokenizer(pieces.train(settings, iter([TEXT])))


def words(tokenizer, text):
  """The text, cut where a word begins."""
  ids = np.array(tokenizer.encode(text))
  word_T = Vocabulary(tokenizer).words(ids, np.zeros(len(ids), bool))
  groups = np.split(ids, np.flatnonzero(np.diff(word_T)) + 1)
  return [tokenizer.decode(group) for group in groups]


@pytest.mark.parametrize(
  "tokenizer", tokenizers(), ids=lambda t: type(t).__name__
)
def test_no_word_is_cut(tokenizer):
  found = words(tokenizer, TEXT[:3000])
  assert "".join(found) == TEXT[:3000]
  # A letter never follows a letter across a border, nor a space within.
  for a, b in zip(found, found[1:], strict=False):
    assert not (re.search(r"\w$", a) and re.match(r"\w", b)), (a, b)
  inside = [re.search(r"\w\W+\w", word) for word in found]
  assert sum(map(bool, inside)) <= len(found) / 50  # pieces such as "e.g"


def test_what_a_word_is():
  found = words(ByteTokenizer(), "naïve_x1 (a)\n本語 ok")
  assert found == ["naïve_x1", " ", "(", "a", ")", "\n", "本語", " ", "ok"]
  pieces_ = next(t for t in tokenizers() if not isinstance(t, ByteTokenizer))
  found = words(characters.CharacterTokenizer("本語ab", False), "a本語b")
  assert found == ["a", "本", "語", "b"]
  assert words(pieces_, "self") == ["self"]


def test_a_special_id_is_no_word_and_parts_words():
  t = ByteTokenizer()
  ids = np.array([*t.encode("ab"), t.eos_id, *t.encode("cd")])
  none = np.zeros(len(ids), bool)
  found = Vocabulary(t).words(ids, none)
  assert found[2] == -1 and found[0] == found[1] != found[3] == found[4]
  begins = none.copy()
  begins[1] = True
  found = Vocabulary(t).words(ids, begins)
  assert found[0] != found[1]
