"""What training refuses, and that its bounds are true."""

import re

import pytest

from llm_jax.tokenizers import characters
from llm_jax.tokenizers import sentencepiece as pieces
from llm_jax.tokenizers.sentencepiece import SentencePiece

TEXT = "to be or not to be, that is the question\n" * 20


def train(text, **settings):
  return pieces.train(SentencePiece(**settings), iter([text]))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_largest_vocabulary_is_named_and_can_be_trained(kind):
  with pytest.raises(ValueError) as e:
    train(TEXT, kind=kind, vocab_size=5000)
  found = re.fullmatch(
    r"--tokenizer\.vocab_size=5000: the corpus supports at most (\d+)",
    str(e.value),
  )
  most = int(found.group(1))
  model = pieces.SentencePieceTokenizer(train(TEXT, kind=kind, vocab_size=most))
  assert model.vocab_size == most


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_smallest_vocabulary_is_named_and_can_be_trained(kind):
  text = "".join(map(chr, range(0x4E00, 0x4E80))) * 20
  with pytest.raises(ValueError) as e:
    train(text, kind=kind, vocab_size=300)
  least = int(str(e.value).split()[-1])
  assert str(e.value).startswith("--tokenizer.vocab_size=300: ")
  train(text, kind=kind, vocab_size=least)


def test_a_vocabulary_must_hold_the_bytes():
  with pytest.raises(ValueError, match=r"--tokenizer\.vocab_size=268: 268 ids"):
    train(TEXT, vocab_size=268)


@pytest.mark.parametrize("texts", [[], [""], ["▁", "▅▅"]])
def test_nothing_to_learn_from(texts):
  with pytest.raises(ValueError, match="holds no text"):
    pieces.train(SentencePiece(), iter(texts))


def test_no_characters_to_learn():
  with pytest.raises(ValueError, match="holds no text"):
    characters.learn(iter([""]))


def test_train_bytes_bounds_what_is_read():
  read = []

  def texts():
    for i in range(100):
      read.append(i)
      yield TEXT

  settings = SentencePiece(vocab_size=290, train_bytes=3 * len(TEXT))
  model = pieces.train(settings, texts())
  assert len(read) == 4
  assert model == pieces.train(SentencePiece(vocab_size=290), iter([TEXT] * 3))


def test_marks_of_the_library_do_not_hide_the_text_around_them():
  # The trainer passes over a sentence that holds U+2585.
  model = train(TEXT.replace("\n", "▅"), vocab_size=290)
  assert len(pieces.SentencePieceTokenizer(model).encode("question")) < 8


def test_an_unknown_character_is_named():
  t = characters.CharacterTokenizer(characters.learn(iter(["ab\t"])), False)
  assert t.decode(t.encode("a\tb")) == "a\tb"
  with pytest.raises(ValueError, match=r"character 'ß' .*byte_fallback"):
    t.encode("aß")


def test_only_characters_can_do_without_bytes():
  with pytest.raises(ValueError, match=r"--tokenizer\.byte_fallback=false"):
    SentencePiece(kind="bpe", byte_fallback=False)
