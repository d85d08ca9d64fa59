"""Gain and bias of rewards."""

import numpy as np
import pytest

from llm_jax.evaluation import standard
from llm_jax.evaluation.pairs import Completions
from llm_jax.evaluation.standard import Line

REWARD = np.array([1.0, 4.0, 4.0, 7.0])  # mean 4, deviation sqrt(4.5)


def test_rewards_have_mean_0_and_deviation_1():
  line = standard.line(REWARD, "gain_and_bias")
  assert line == pytest.approx((1 / 4.5**0.5, -4 / 4.5**0.5))
  assert line(REWARD).mean() == pytest.approx(0, abs=1e-12)
  assert line(REWARD).std() == pytest.approx(1)
  # Mutant: the bias of rewards as they were, not as the gain makes them.
  assert abs(Line(line.gain, -REWARD.mean())(REWARD).mean()) > 1


def test_a_bias_alone_and_nothing():
  assert standard.line(REWARD, "bias") == Line(1.0, -4.0)
  assert standard.line(REWARD, "none") == Line() == (1.0, 0.0)


def test_order_is_kept():
  r = np.random.default_rng(0).normal(size=50) * 1e-3 + 7
  for kind in ("gain_and_bias", "bias", "none"):
    np.testing.assert_array_equal(
      np.argsort(standard.line(r, kind)(r)), np.argsort(r)
    )


def test_the_same_for_all_and_what_cannot_be():
  assert standard.line(np.full(3, 5.0), "gain_and_bias") == Line(1.0, -5.0)
  bad = np.array([1.0, np.nan, np.inf])
  for given, want in ((bad, "2 of the rewards of 3 "), (bad[:0], "0 of the")):
    with pytest.raises(ValueError, match=want):
      standard.line(given, "bias")


def test_the_best_of_each_prompt_are_references():
  """Several where they are as good; none of an empty row."""
  reward_GK = np.arange(6, dtype=np.float32).reshape(2, 3)
  rank_GK = np.array([[0, 1, -1], [0, 2, 0]])
  found = Completions(reward_GK, reward_GK, rank_GK)
  assert standard.best(found).tolist() == [0, 3, 5]
  assert standard.best(found).dtype == np.float64
