"""Reward models' losses are their naive loops, in float64."""

import itertools

import jax
import numpy as np
import pytest

from llm_jax.objectives.ranking import Ranking, reward
from tests.objectives import table

K, G = 4, 3
RANKS = [[0, 1, 2, 3], [0, 1, 1, 2], [0, 0, 1, -1]]  # ties; one is missing


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def batch(ranks=RANKS):
  """Rows of ragged lengths, none where the rank is -1."""
  rank_B = np.array(ranks).reshape(-1)
  length_B = np.where(rank_B < 0, 0, 1 + np.arange(len(rank_B)) % 4)
  return table.rows_of(length_B) | {"rank_B": rank_B}


def said(score_B, batch, *, key=None):
  """A reward model whose number stands where the last token is predicted."""
  scores = table.given(score_B, batch)
  mask_BT = batch["mask_BT"]
  at_BT = np.arange(mask_BT.shape[1])[None] == mask_BT.sum(1)[:, None] - 1
  here_BT = at_BT * score_B[batch["row_B"]][:, None]
  noise_BT = (1 - at_BT) * (9.0 + np.arange(mask_BT.shape[1]))
  return scores._replace(output_BTO=(here_BT + noise_BT)[..., None])


def run(objective, score_B, b, cuts=1, **kwargs):
  return table.step(
    objective, {"policy": score_B}, b, cuts, score=said, **kwargs
  )


def naive(score_B, ranks, center=0.0, mutant=""):
  """One pair of one prompt at a time."""
  prompts = []
  for scores, rank in zip(score_B.reshape(-1, K), ranks, strict=True):
    terms = []
    for i, j in itertools.combinations(range(K), 2):
      if rank[i] < 0 or rank[j] < 0 or rank[i] == rank[j]:
        continue
      w, l = (i, j) if rank[i] < rank[j] else (j, i)
      loss = np.log1p(np.exp(scores[l] - scores[w]))
      terms.append(loss + center * (scores[w] + scores[l]) ** 2)
    prompts.append(terms)
  if mutant == "every pair counts once":
    return np.mean(sum(prompts, []))
  if mutant == "not divided by pairs":
    return np.mean([sum(terms) for terms in prompts])
  return np.mean([np.mean(terms) for terms in prompts])


def scores():
  return np.random.default_rng(0).normal(size=K * G)


@pytest.mark.parametrize("center", [0.0, 0.1])
def test_k_wise_is_its_naive_loop(center):
  score_B, b = scores(), batch()
  objective = Ranking(completions=K, center=center)
  loss, gradient, metrics = run(objective, score_B, b)
  np.testing.assert_allclose(loss, naive(score_B, RANKS, center), rtol=1e-13)
  for i in range(len(score_B)):
    at = lambda d, i=i: naive(
      score_B + d * (np.arange(len(score_B)) == i), RANKS, center
    )
    want = (at(1e-5) - at(-1e-5)) / 2e-5
    np.testing.assert_allclose(gradient[i], want, atol=1e-9)
  for mutant in ("every pair counts once", "not divided by pairs"):
    wrong = naive(score_B, RANKS, center, mutant)
    assert abs(wrong - loss) > 1e-3
  assert metrics["tokens"] == b["mask_BT"].sum()
  there = b["mask_BT"].any(1)
  np.testing.assert_allclose(metrics["reward"], score_B[there].mean())


def test_k_of_two_is_bradley_terry():
  """And all rows of one prompt are compared, of no two prompts."""
  score_B = scores()
  b = table.rows_of([2] * len(score_B))
  loss, gradient, metrics = run(Ranking(), score_B, b)
  d = score_B[::2] - score_B[1::2]
  np.testing.assert_allclose(loss, np.log1p(np.exp(-d)).mean(), rtol=1e-13)
  half = 1 / (1 + np.exp(d)) / len(d)
  want = np.stack([-half, half], 1).reshape(-1)
  np.testing.assert_allclose(gradient, want, rtol=1e-12)
  np.testing.assert_allclose(metrics["margin"], d.mean(), rtol=1e-12)
  np.testing.assert_allclose(metrics["accuracy"], (d > 0).mean())
  assert abs(run(Ranking(completions=4), score_B, b)[0] - loss) > 1e-3


def test_what_changes_nothing_and_what_does():
  score_B, b = scores(), batch()
  objective = Ranking(completions=K)
  loss, gradient, _ = run(objective, score_B, b)
  shift_B = np.repeat([4.0, -1.0, 2.0], K)
  np.testing.assert_allclose(
    run(objective, score_B + shift_B, b)[0], loss, 1e-12
  )
  order = np.array([2, 0, 3, 1])
  rows = (np.arange(G)[:, None] * K + order).reshape(-1)
  moved = {k: x[rows] for k, x in b.items()}
  np.testing.assert_allclose(run(objective, score_B, moved)[0], loss, 1e-12)
  np.testing.assert_allclose(gradient.reshape(G, K).sum(1), 0, atol=1e-15)
  # Mutants: a shift inside of a prompt; centering.
  assert abs(run(objective, score_B + rows * 0.1, b)[0] - loss) > 1e-3
  centred = Ranking(completions=K, center=0.1)
  assert abs(run(centred, score_B + shift_B, b)[0] - loss) > 1e-3


def test_prompts_are_not_parted_by_microbatches():
  score_B = np.random.default_rng(1).normal(size=K * 4)
  b = batch(RANKS + [[0, 1, 2, 3]])
  objective = Ranking(completions=K, center=0.1)
  one, two = run(objective, score_B, b), run(objective, score_B, b, 2)
  for got, want in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
  parted = run(objective, score_B, b, 2, group=1)
  assert abs(parted[0] - one[0]) > 1e-3


def test_margin_is_asked_for_only_where_it_is_wanted():
  score_B, b = scores(), table.rows_of([2] * K * G)
  margin = np.linspace(0, 2, K * G // 2)
  given = b | {"margin_B": np.repeat(margin, 2)}
  d = score_B[::2] - score_B[1::2]
  want = np.log1p(np.exp(margin - d)).mean()
  np.testing.assert_allclose(run(Ranking(), score_B, given)[0], want, 1e-12)
  without = run(Ranking(margin=False), score_B, given)[0]
  np.testing.assert_allclose(without, run(Ranking(), score_B, b)[0], rtol=1e-15)
  assert abs(without - want) > 1e-2


def test_extremes_and_what_cannot_be():
  for float_ in (np.float32, np.float64):
    score_B = np.tile([1e4, -1e4, -1e4, 1e4], G).astype(float_)
    with jax.enable_x64(float_ == np.float64):
      loss, gradient, _ = run(Ranking(completions=K), score_B, batch())
      assert np.isfinite(loss) and np.isfinite(gradient).all()
  none = batch([[-1] * K] * G)
  loss, gradient, _ = run(Ranking(completions=K), scores(), none)
  assert loss == 0 and not gradient.any()
  with pytest.raises(ValueError, match="--model.outputs=0"):
    reward(table.given(scores(), none)._replace(output_BTO=None), none)
  with pytest.raises(ValueError, match="--batch_size=12: not divisible by 1"):
    run(Ranking(completions=5), scores(), none)
