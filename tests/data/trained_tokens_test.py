"""Which documents have more than one stretch that is trained."""

import itertools

import numpy as np
import pytest

from llm_jax.data import trained_tokens
from llm_jax.data.tokens import Tokens


def counted(documents):
  """By a loop over each document."""
  runs = lambda d: sum(value for value, _ in itertools.groupby(d))
  return sum(runs(d) > 1 for d in documents)


def made(documents):
  flat = np.array([x for d in documents for x in d], bool)
  offsets = np.cumsum([0, *map(len, documents)])
  return Tokens(np.zeros(len(flat), np.uint16), offsets, 1, flat)


@pytest.mark.parametrize("seed", range(8))
def test_stretches_are_counted_within_documents(seed):
  r = np.random.default_rng(seed)
  documents = [
    (r.random(r.integers(1, 9)) < 0.5).tolist() for _ in range(r.integers(1, 9))
  ]
  assert trained_tokens.several(made(documents)) == counted(documents)


def test_a_stretch_that_ends_one_and_begins_the_next_is_two():
  documents = [[False, True], [True, False], [True, False, True]]
  assert trained_tokens.several(made(documents)) == 1
  assert trained_tokens.several(Tokens(np.zeros(3), np.array([0, 3]), 1)) == 0
