"""Routing: who is chosen, and what is told of it, by hand."""

import jax
import numpy as np
import pytest

from llm_jax.ops import routing

LOGITS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))[None]


def test_the_likeliest_are_chosen_with_their_weights():
  with jax.enable_x64(True):
    weight, choice = routing.choose(LOGITS, 2, True)
    raw, _ = routing.choose(LOGITS + 3.0, 2, False)
  np.testing.assert_array_equal(choice, [[[0, 1], [2, 1]]])
  np.testing.assert_allclose(weight, [[[5 / 8, 3 / 8], [7 / 9, 2 / 9]]])
  np.testing.assert_allclose(raw, [[[0.5, 0.3], [0.7, 0.2]]])
  # The mutant: a softmax over all, where one over the chosen is meant.
  assert np.abs(raw - weight).max() > 0.05


def test_what_is_told_by_hand():
  """f = (1/4, 2/4, 1/4) of 4 choices; P = (0.3, 0.25, 0.45)."""
  with jax.enable_x64(True):
    _, choice = routing.choose(LOGITS, 2, True)
    told = routing.tell(LOGITS - 2.0, choice, np.ones((1, 2), bool))
    first = routing.tell(LOGITS, choice, np.array([[True, False]]))
    none = routing.tell(LOGITS, choice, np.zeros((1, 2), bool))
  balance = 3 * (0.3 / 4 + 0.25 / 2 + 0.45 / 4)
  np.testing.assert_allclose(told.balance_LB, [balance])
  np.testing.assert_allclose(told.z_LB, [4.0])
  np.testing.assert_array_equal(told.load_LBM, [[1, 2, 1]])
  p = np.exp(LOGITS[0])
  entropy = -(p * np.log(p)).sum(-1)
  np.testing.assert_allclose(told.entropy_LB, [entropy.mean()])
  np.testing.assert_allclose(first.balance_LB, [3 * (0.5 + 0.3) / 2])
  np.testing.assert_allclose(first.entropy_LB, [entropy[0]])
  assert all((np.asarray(x) == 0).all() for x in none)


def test_only_the_mean_probability_has_a_gradient():
  """D balance / D P_m = M f_m, through the softmax, by finite differences
  while no choice changes."""
  towards = np.random.default_rng(0).normal(size=LOGITS.shape)
  with jax.enable_x64(True):
    _, choice = routing.choose(LOGITS, 1, True)
    real = np.ones((1, 2), bool)
    f = lambda x: routing.tell(x, choice, real).balance_LB.sum()
    slope = (jax.grad(f)(LOGITS) * towards).sum()
    step = 1e-5
    ends = f(LOGITS + step * towards) - f(LOGITS - step * towards)
    assert abs(slope - ends / 2 / step) < 1e-9 and abs(slope) > 1e-2


@pytest.mark.parametrize(
  ("batch", "want"),
  [
    ({"segment_BT": np.array([[0, 1, 2, 0]])}, [0, 1, 1, 0]),
    ({"mask_BT": np.array([[False, True, True, False]])}, [1, 1, 1, 0]),
    ({"mask_BT": np.zeros((1, 4), bool)}, [0, 0, 0, 0]),
    ({}, [1, 1, 1, 1]),
  ],
)
def test_padding_is_known_by_what_a_batch_tells(batch, want):
  batch = batch | {"tokens_BT": np.zeros((1, 4), np.int32)}
  np.testing.assert_array_equal(routing.real_tokens(batch), [want])
