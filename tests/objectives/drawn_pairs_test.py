"""Pairs of what was drawn are the best and the worst of each prompt.

Dimension key: B completions; K of a prompt; Q prompts; T positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.objectives.drawn_pairs import DrawnPairs

B, K, T = 12, 4, 7
SCORES = np.array([0, 3, -1, 3, 2, 2, 2, 2, 5, 0.5, 0.25, 1], np.float32)


def batch(score_B=SCORES):
  """Ragged completions after ragged prompts, in rows aligned in between."""
  r = np.random.default_rng(0)
  at_T, begin = np.arange(T), 3
  first_B1 = np.repeat(r.integers(0, begin + 1, B // K), K)[:, None]
  size_B1 = r.integers(1, T - begin, (B, 1))
  mask_BT = (at_T >= begin) & (at_T < begin + size_B1)
  return {
    "tokens_BT": r.integers(0, 99, (B, T)),
    "target_BT": r.integers(0, 99, (B, T)),
    "mask_BT": mask_BT,
    # The last token is read, too, and nothing is asked of it.
    "segment_BT": ((at_T >= first_B1) & (at_T <= begin + size_B1)).astype(int),
    "position_BT": np.maximum(at_T - first_B1, 0),
    "ref_logp_BT": np.where(mask_BT, r.normal(size=(B, T)), np.nan),
    "score_B": score_B,
    "length_B": mask_BT.sum(1),
    "ended_B": r.random(B) < 0.5,
  }


def by_hand(rows):
  """A loop over prompts; None where all score the same."""
  for i in range(0, B, K):
    scores = rows["score_B"][i : i + K].tolist()
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    yield None if best == worst else (i + best, i + worst)


def test_the_best_is_chosen_and_the_worst_rejected():
  given = batch()
  found = jax.device_get(DrawnPairs(K).credit(given))
  num_there = 0
  for q, both in enumerate(by_hand(given)):
    here = slice(2 * q, 2 * q + 2)
    if both is None:
      assert not found["mask_BT"][here].any()
      assert not found["prompt_BT"][here].any()
      assert (found["margin_B"][here] == 0).all()
      continue
    num_there += 1
    for row, want in zip(range(2 * q, 2 * q + 2), both, strict=True):
      for name in ("tokens_BT", "target_BT", "mask_BT", "position_BT"):
        np.testing.assert_array_equal(found[name][row], given[name][want])
      mask = given["mask_BT"][want]
      logp = given["ref_logp_BT"][want][mask].sum()
      np.testing.assert_allclose(found["ref_logp_B"][row], logp, rtol=1e-6)
      before = np.arange(T) < mask.argmax()
      np.testing.assert_array_equal(
        found["prompt_BT"][row], before & (given["segment_BT"][want] > 0)
      )
    margin = given["score_B"][both[0]] - given["score_B"][both[1]]
    assert found["margin_B"][here].tolist() == [margin] * 2
  assert num_there == 2  # one of the three is a tie
  assert np.isfinite(found["ref_logp_B"]).all()
  assert len(found["tokens_BT"]) == 2 * B // K


def test_what_is_told_is_of_all_completions():
  given = {**batch(), "beta_B": np.ones(B)}
  found = DrawnPairs(K).credit(given)
  assert "beta_B" not in found
  for name in ("score_B", "length_B", "ended_B"):
    mean_Q = given[name].reshape(-1, K).mean(1)
    np.testing.assert_allclose(found[name], np.repeat(mean_Q, 2), rtol=1e-6)
  both = np.asarray(found["score_B"]).mean()
  assert both == pytest.approx(SCORES.mean())
  best_and_worst = np.mean([[3, -1], [2, 2], [5, 0.25]])
  assert both != pytest.approx(best_and_worst)  # the mutant


def test_more_than_the_order_of_scores_changes_nothing_but_margins():
  given = batch()
  there, here = (
    jax.jit(DrawnPairs(K).credit)({**given, "score_B": s})
    for s in (SCORES, 10 * SCORES + 3)
  )
  for name in ("tokens_BT", "target_BT", "mask_BT", "ref_logp_B"):
    np.testing.assert_array_equal(there[name], here[name])
  np.testing.assert_allclose(10 * there["margin_B"], here["margin_B"])
  # The mutant: the worst for the best.
  wrong = DrawnPairs(K).credit({**given, "score_B": -SCORES})
  assert (jnp.asarray(wrong["target_BT"]) != there["target_BT"]).any()
