"""What is written after each sentinel is held against what stood there."""

import numpy as np
import pytest

from llm_jax import infilling
from llm_jax.data import denoised
from llm_jax.data.corruption import Pair
from llm_jax.data.denoisers import Mixture, PrefixLM, Spans
from tests.data.denoised_test import (
  documents,
  EOS,
  ONE,
  SENTINELS,
  TOKENIZER,
  VOCABULARY,
)

A, B, C = SENTINELS[:3]
TEXT = {c: TOKENIZER.encode(c)[0] for c in "abcdefgh"}


def ids(written):
  """ "0ab1c" -> ids, a digit being a sentinel."""
  return [SENTINELS[int(c)] if c.isdigit() else TEXT[c] for c in written]


def gap(source, target):
  as_ids = lambda text: np.array([*ids(text), EOS], np.int32)
  return Pair(as_ids(source), as_ids(target))


GAPS = [gap("a0d1", "0bc1e"), gap("0b1d", "0a1c2")]
SAID = [
  (["0bc1e", "0a1c2"], 1.0),
  (["0bc1e", "0a1c"], 1.0),
  (["1e0bc", "1c0a"], 1.0),  # in another order
  (["0b1e", "0c1a"], 0.25),
  (["", "bc"], 0.0),
  (["0bc0d1e", "0a1c"], 0.75),  # the last that is said
]


@pytest.mark.parametrize("said,share", SAID)
def test_share_of_spans(said, share):
  def answer(variables, sources, limit):
    assert variables == "v" and limit == max(len(p.target) for p in GAPS)
    assert sources == [p.source.tolist() for p in GAPS]
    return iter(map(ids, said))

  found = infilling.measure(GAPS, answer, "v", TOKENIZER, lambda x: x)
  often = 0.25  # all four differ
  assert found == {
    "exact_match": share,
    "questions": 4.0,
    "most_frequent": often,
  }


def test_most_frequent_span():
  gaps = [gap("a0d1", "0b1e"), gap("0d1", "0b1c2")]
  answer = lambda variables, sources, limit: iter([ids("0b"), ids("0b1b")])
  found = infilling.measure(gaps, answer, "v", TOKENIZER, lambda x: x)
  assert found["most_frequent"] == found["exact_match"] == 0.5


def test_examples_are_fair_and_can_be_written():
  shape = denoised.Shape(32, False, ONE)
  ways = Mixture((Spans(), PrefixLM(), Spans(0.5)), (), ("R", "S", "X"))
  tokens = documents()
  made = denoised.parts(ways, tokens, shape, VOCABULARY, None)
  found = denoised.gaps(made, VOCABULARY, 20)
  assert len(found) == 20
  modes = TOKENIZER.marks.modes
  begins = [p.source[0] for p in found]
  assert begins == [modes["R"], modes["X"]] * 10
  for pair in found:
    assert pair.target[-1] == EOS and not (pair.target[:-1] == EOS).any()
  again = denoised.gaps(made, VOCABULARY, 20)
  assert all(
    np.array_equal(a.target, b.target)
    for a, b in zip(found, again, strict=True)
  )
  most = denoised.gaps(made, VOCABULARY, 10**6)
  assert len(most) < 2 * len(tokens)
