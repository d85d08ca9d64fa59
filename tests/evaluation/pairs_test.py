"""Figures of rewards against numbers worked out by hand and by loops."""

import math

import numpy as np
import pytest

from llm_jax.evaluation import calibration, pairs


def of(rewards, lengths=None, ranks=None):
  """Completions of prompts; ranks go up by default, lengths are all 1."""
  reward_GK = np.array(rewards, float)
  G, K = reward_GK.shape
  return pairs.Completions(
    reward_GK,
    np.ones((G, K)) if lengths is None else np.array(lengths),
    np.tile(np.arange(K), (G, 1)) if ranks is None else np.array(ranks),
  )


def drawn(G=40, K=4, seed=0):
  """Rankings with ties and places without a completion."""
  r = np.random.default_rng(seed)
  ranks = r.integers(-1, 3, (G, K))
  return of(r.normal(size=(G, K)).round(1), r.integers(1, 9, (G, K)), ranks)


def by_loop(found, mutant=""):
  """Accuracy and margin, a pair at a time."""
  rights, margins = [], []
  for reward_K, rank_K in zip(found.reward_GK, found.rank_GK, strict=True):
    right, margin = [], []
    for better, a in zip(reward_K, rank_K, strict=True):
      for worse, b in zip(reward_K, rank_K, strict=True):
        if (min(a, b) >= 0 or mutant == "padding") and a < b:
          tie = {"tie is right": 1, "tie is wrong": 0}.get(mutant, 0.5)
          right.append(1 if better > worse else tie * (better == worse))
          margin.append(better - worse)
    if right and mutant != "each pair once":
      right, margin = [np.mean(right)], [np.mean(margin)]
    rights, margins = rights + right, margins + margin
  return np.mean(rights), np.mean(margins)


def test_accuracy_and_margin_are_the_naive_loop():
  got = pairs.measure(drawn())
  want = by_loop(drawn())
  np.testing.assert_allclose((got["accuracy"], got["margin"]), want, rtol=1e-12)


@pytest.mark.parametrize(
  "mutant", ["padding", "tie is right", "tie is wrong", "each pair once"]
)
def test_another_count_is_caught(mutant):
  got = pairs.measure(drawn())["accuracy"]
  assert abs(by_loop(drawn(), mutant)[0] - got) > 1e-3


def test_a_model_that_knows_nothing_is_a_coin():
  found = pairs.measure(of([[3, 3], [3, 3], [3, 3]]))
  assert found["accuracy"] == 0.5 and found["margin"] == 0
  assert found["ece"] == 0  # and says so
  assert "length_correlation" not in found


def test_swapping_and_shifting():
  a = drawn()
  swapped = a._replace(rank_GK=np.where(a.rank_GK < 0, -1, 2 - a.rank_GK))
  shifted = a._replace(reward_GK=a.reward_GK + np.arange(40)[:, None])
  one, two, three = (pairs.measure(x) for x in (a, swapped, shifted))
  assert one["accuracy"] == pytest.approx(1 - two["accuracy"])
  assert one["margin"] == pytest.approx(-two["margin"])
  # What is the same for all completions of a prompt changes nothing.
  for name in ("accuracy", "margin", "ece", "length_correlation"):
    assert three[name] == pytest.approx(one[name], abs=1e-12)


def test_length_bias_by_hand():
  # Rewards are lengths: right where the chosen one is the longer.
  lengths = [[5, 2], [9, 3], [2, 8], [4, 4]]
  found = pairs.measure(of(lengths, lengths))
  assert found["chosen_longer"] == 1 and found["chosen_shorter"] == 0
  assert found["length_correlation"] == pytest.approx(1)
  assert (
    found["accuracy"]
    == pairs.baselines(of(lengths, lengths))["longer_is_better"]["accuracy"]
  )
  assert found["accuracy"] == (1 + 1 + 0 + 0.5) / 4
  # Mutant: over all completions at once; long prompts have high rewards here,
  # though of one prompt's completions the shorter has more.
  rewards, lengths = [[11, 10], [1, 0]], [[8, 9], [1, 2]]
  found = pairs.measure(of(rewards, lengths))
  assert found["length_correlation"] == pytest.approx(-1)
  assert np.corrcoef(np.ravel(rewards), np.ravel(lengths))[0, 1] > 0.9


def test_what_no_pair_tells_is_left_out():
  found = pairs.measure(of([[2, 1]], [[5, 2]]))
  assert found["chosen_longer"] == 1 and "chosen_shorter" not in found
  with pytest.raises(ValueError, match="there is no pair to evaluate on"):
    pairs.measure(of([[2, 1]], ranks=[[0, -1]]))


def simulated(scale, n=60_000):
  """Which of two is better is drawn as Bradley-Terry says; rewards scaled."""
  r = np.random.default_rng(0)
  true = r.normal(size=(n, 2)) * 1.5
  first = r.random(n) < 1 / (1 + np.exp(true[:, 1] - true[:, 0]))
  ranks = np.where(first[:, None], [[0, 1]], [[1, 0]])
  return of(scale * true, ranks=ranks)


def test_who_knows_the_chances_is_calibrated():
  assert pairs.measure(simulated(1))["ece"] < 0.01
  # Mutants: too sure, and not sure enough.
  assert pairs.measure(simulated(3))["ece"] > 0.1
  assert pairs.measure(simulated(0.3))["ece"] > 0.1
  right = [b["accuracy"] for b in pairs.confidence(simulated(1)).curve()]
  assert right == sorted(right) and len(right) == calibration.BINS


def test_calibration_by_hand():
  margin = [math.log(3), math.log(3), -math.log(3), 40.0]
  share, sure, right = pairs.confidence(of([[m, 0] for m in margin]), bins=2)
  # Sure to 3/4, which is where the second bin begins, and certain: one bin.
  np.testing.assert_allclose(share.sum(), 1)
  np.testing.assert_allclose((share * sure).sum(), (3 * 0.75 + 1) / 4)
  np.testing.assert_allclose((share * right).sum(), 3 / 4)
  share, sure, right = pairs.confidence(of([[m, 0] for m in margin]), bins=5)
  np.testing.assert_allclose(share, [3 / 4, 1 / 4])
  np.testing.assert_allclose(sure, [3 / 4, 1])
  np.testing.assert_allclose(right, [2 / 3, 1])
  found = pairs.measure(of([[m, 0] for m in margin]))
  assert found["ece"] == pytest.approx(3 / 4 * (3 / 4 - 2 / 3))


def test_extreme_rewards_stay_finite():
  found = pairs.measure(of([[1e30, -1e30], [-1e30, 1e30]]))
  assert found["accuracy"] == 0.5 and found["ece"] == 0.5
  assert all(map(math.isfinite, found.values()))


def test_rewards_that_are_no_numbers_are_said():
  bad = of([[1, math.nan], [math.inf, 2], [3, math.nan]])
  bad = bad._replace(rank_GK=np.array([[0, 1], [0, 1], [0, -1]]))
  with pytest.raises(ValueError, match="the rewards of 2 of 5 completions are"):
    pairs.measure(bad)
  with pytest.raises(ValueError, match="not finite"):
    pairs.baselines(bad)
  # Where there is no completion, whatever stands there is not looked at.
  assert pairs.measure(of([[2, 1, math.nan]], ranks=[[0, 1, -1]]))["pairs"] == 1
