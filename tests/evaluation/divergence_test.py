"""KL on a policy's own completions, against all that it could say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.evaluation import divergence

START, STOP, LETTERS = 0, 1, 4


def score(table, batch, *, key=None):
  """A table: logits of the next token by the last one."""
  logp = jax.nn.log_softmax(table)[batch["tokens_BT"]]
  picked = jnp.take_along_axis(logp, batch["target_BT"][..., None], -1)[..., 0]
  return Scores(picked, jnp.zeros_like(picked))


FORWARD = dict.fromkeys(("policy", "reference"), score)


def tables():
  r = np.random.default_rng(0)
  logits = [r.normal(size=(LETTERS, LETTERS)) for _ in range(2)]
  return dict(
    zip(("policy", "reference"), map(jnp.asarray, logits), strict=True)
  )


def completions(last, limit):
  """Every completion of up to `limit` tokens, ended by STOP or cut."""
  for token in range(LETTERS):
    if token == STOP or limit == 1:
      yield [token]
    else:
      yield from ([token, *rest] for rest in completions(token, limit - 1))


def logp(table, prompt, completion):
  logits, total, last = np.asarray(table), 0.0, prompt[-1]
  for token in completion:
    total += logits[last, token] - np.log(np.exp(logits[last]).sum())
    last = token
  return total


PROMPT = [2, 3, 2]


def measured(chosen, start_id=START):
  batch = divergence.batch(
    [PROMPT] * len(chosen), chosen, start_id, len(chosen) + 3, 12
  )
  return divergence.log_ratio(FORWARD, tables(), batch)


def test_over_all_completions_it_is_the_kl():
  with jax.enable_x64(True):
    said = list(completions(PROMPT[-1], 4))
    found = np.asarray(measured(said))
    policy, reference = (
      np.array([logp(t, PROMPT, y) for y in said]) for t in tables().values()
    )
  assert np.exp(policy).sum() == pytest.approx(1)  # they are all there is
  np.testing.assert_allclose(
    found[: len(said)], policy - reference, rtol=1e-12, atol=1e-12
  )
  assert not found[len(said) :].any()  # rows that nobody asked for
  kl = (np.exp(policy) * found[: len(said)]).sum()
  assert kl == pytest.approx((np.exp(policy) * (policy - reference)).sum())
  assert kl > 0
  # Mutant: without what ends a completion.
  short = np.array(
    [logp(t, PROMPT, y[:-1]) for t in tables().values() for y in said]
  )
  cut = short[: len(said)] - short[len(said) :]
  assert abs((np.exp(policy) * cut).sum() - kl) > 1e-3


def test_rows_are_as_a_document_begins():
  batch = divergence.batch([[5, 6]], [[7, 1]], 9, 2, 6)
  assert batch["tokens_BT"][0].tolist() == [9, 5, 6, 7, 0, 0]
  assert batch["target_BT"][0].tolist() == [5, 6, 7, 1, 0, 0]
  assert batch["mask_BT"][0].tolist() == [0, 0, 1, 1, 0, 0]
  assert not batch["mask_BT"][1].any()


def test_the_summary():
  found = divergence.summary([1.0, 2.0, 6.0])
  assert found["kl"] == 3 and found["completions"] == 3
  assert found["kl_error"] == pytest.approx(math.sqrt(7 / 3))
  assert "kl_error" not in divergence.summary([1.0])
  with pytest.raises(ValueError, match="there is no completion"):
    divergence.summary([])
