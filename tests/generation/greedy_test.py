"""Answers are what a naive loop over whole texts would say."""

import jax
import jax.numpy as jnp
import pytest

from llm_jax import model as model_lib
from llm_jax.generation.greedy import Answerer
from llm_jax.ops.sampling import Sampler
from tests import small


class Tokenizer:
  pad_id, eos_id, start_id = 0, 1, 1


_, VARIABLES = small.build()
PURE = model_lib.of_shape(small.CONFIG)
QUESTIONS = [[5, 6, 7], [9], [4, 4, 4, 4, 4, 11, 3], [12, 13], [8, 3]]
LIMIT, WIDTH = 6, 14


def _answers(rows, max_length=32, questions=QUESTIONS, end=2):
  answerer = Answerer(
    Tokenizer,
    PURE.decode,
    PURE.open_cache,
    max_length,
    rows,
    (Tokenizer.eos_id, end),
  )
  return list(answerer(VARIABLES, questions, LIMIT))


@jax.jit
def _likeliest(tokens_T, n):
  """The token after the first n, from the scores of all of them."""
  V = small.CONFIG.vocab_size
  tokens_VT = jnp.tile(tokens_T, (V, 1))
  target_VT = jnp.roll(tokens_VT, -1, 1).at[:, n - 1].set(jnp.arange(V))
  mask_VT = jnp.ones((V, WIDTH), bool)
  batch = {"tokens_BT": tokens_VT, "target_BT": target_VT, "mask_BT": mask_VT}
  return PURE.score(VARIABLES, batch).logp_BT[:, n - 1].argmax()


def _naive(question, end=2):
  """The whole text again for each token: no cache, nothing beside it."""
  ids, out = [Tokenizer.eos_id, *question], []
  for _ in range(LIMIT):
    padded = jnp.array(ids + [0] * (WIDTH - len(ids)), jnp.int32)
    token = int(_likeliest(padded, len(ids)))
    if token in (Tokenizer.eos_id, end):
      break
    ids.append(token)
    out.append(token)
  return out


def test_answers_are_those_of_a_naive_loop():
  """In rows of two: a last row is empty, and questions are padded."""
  found = _answers(rows=2)
  assert found == [_naive(q) for q in QUESTIONS]
  assert len({tuple(a) for a in found}) > 1  # or any question would do


def test_an_answer_ends_before_the_id_that_ends_it():
  """One that it would go on with; the mutant that keeps it is caught."""
  whole = _answers(rows=8)
  end = next(a[0] for a in whole if a)
  found = _answers(rows=8, end=end)
  assert found == [_naive(q, end) for q in QUESTIONS]
  assert found != whole and all(end not in a for a in found)


def test_no_question_has_no_answer():
  assert _answers(rows=2, questions=[]) == []


def test_an_answer_ends_where_the_model_can_read_no_more():
  """What does not fit is cut, and of the longest question alone."""
  whole = _answers(rows=8, end=-1)
  found = _answers(rows=8, max_length=10, end=-1)
  left = [10 - len(q) for q in QUESTIONS]  # one is never read: no place
  assert min(left) < LIMIT < max(left)
  assert found == [a[:n] for a, n in zip(whole, left, strict=True)]
  assert found != whole


def test_a_question_too_long_is_said_before_anything_is_answered():
  with pytest.raises(ValueError, match=r"8 tokens .* 7 that --model.max_len"):
    _answers(rows=2, max_length=7)


def test_drawn_answers_differ_by_seed_and_by_question_and_may_be_whole():
  def drawn(seed, **kwargs):
    sample = Answerer(
      Tokenizer,
      PURE.decode,
      PURE.open_cache,
      32,
      2,
      (Tokenizer.eos_id, 2),
      Sampler(),
      seed,
    )
    # The same question in every row of every batch.
    return list(sample(VARIABLES, [[5, 6, 7]] * 8, LIMIT, **kwargs))

  one, again = drawn(0), drawn(0)
  assert one == again != drawn(1)
  # Mutant: one key for all batches, which say the same then.
  assert [one[i : i + 2] for i in range(2, 8, 2)] != [one[:2]] * 3
  whole = drawn(0, whole=True)
  assert any(ids[-1] in (Tokenizer.eos_id, 2) for ids in whole)
  stops = lambda ids: [t for t in ids if t not in (Tokenizer.eos_id, 2)]
  assert [stops(ids) for ids in whole] == one
