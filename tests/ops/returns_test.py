"""Advantages: sums written out, published numbers, and the classic mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import kl, returns

GAMMA, LAM = 0.9, 0.8
GRID = np.arange(12, 21).reshape(3, 3) / 10  # of Huang et al.'s whitening


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def ragged(seed=0, lengths=(6, 4, 1, 0), T=6):
  """Rewards, values and mask; what is masked is no number at all."""
  r = np.random.default_rng(seed)
  mask = np.arange(T)[None] < np.array(lengths)[:, None]
  numbers = r.normal(size=(2, len(lengths), T))
  return *np.where(mask, numbers, np.nan), mask


def by_hand(reward, value, mask, gamma, lam):
  """Equation 16, term by term."""
  out = np.zeros(reward.shape)
  for b, n in enumerate(mask.sum(1)):
    later = np.append(value[b, :n], 0.0)
    delta = reward[b, :n] + gamma * later[1:] - later[:-1]
    for t in range(n):
      out[b, t] = sum((gamma * lam) ** k * delta[t + k] for k in range(n - t))
  return out


def test_gae_is_the_sum_of_its_definition():
  reward, value, mask = ragged()
  found = jax.jit(returns.gae, static_argnums=(3, 4))(
    reward, value, mask, GAMMA, LAM
  )
  np.testing.assert_allclose(
    found, by_hand(reward, value, mask, GAMMA, LAM), atol=1e-13
  )


def test_with_lambda_1_gae_is_the_return_less_the_value():
  reward, value, mask = ragged(1)
  found = np.asarray(returns.gae(reward, value, mask, GAMMA, 1.0))
  for b, n in enumerate(mask.sum(1)):
    for t in range(n):
      monte_carlo = sum(GAMMA**k * reward[b, t + k] for k in range(n - t))
      assert found[b, t] == pytest.approx(monte_carlo - value[b, t], abs=1e-13)


def test_a_fraction_of_a_reward_survives():
  reward = jnp.array([[0.0, 0.73], [0.0, -0.4]])
  mask = jnp.ones((2, 2), bool)
  found = returns.gae(reward, jnp.zeros((2, 2)), mask, 1.0, 1.0)
  np.testing.assert_allclose(found, [[0.73, 0.73], [-0.4, -0.4]])


def leaking(reward_BT, value_BT, mask_BT, gamma, lam):
  """Padding is taken for a state with a value."""
  everywhere = jnp.ones_like(mask_BT)
  return returns.gae(
    jnp.nan_to_num(reward_BT, nan=0.1),
    jnp.nan_to_num(value_BT, nan=0.1),
    everywhere,
    gamma,
    lam,
  )


def test_a_leak_of_padding_is_seen():
  reward, value, mask = ragged()
  found = np.asarray(leaking(reward, value, mask, GAMMA, LAM))
  expected = by_hand(reward, value, mask, GAMMA, LAM)
  assert np.abs(found - expected)[mask].max() > 1e-2


@pytest.mark.parametrize(
  "unbiased, expected",
  [
    (
      False,
      [0.0508, 0.4381, 0.8254, 1.2127, 1.6, 1.9873, 2.3746, 2.7619, 3.1492],
    ),
    (
      True,
      [0.1394, 0.5046, 0.8697, 1.2349, 1.6, 1.9651, 2.3303, 2.6954, 3.0606],
    ),
  ],
)
def test_whitening_has_its_published_values(unbiased, expected):
  mask = np.ones((3, 3), bool)
  found = returns.whiten(GRID, mask, shift=False, unbiased=unbiased)
  np.testing.assert_allclose(np.ravel(found), expected, atol=5e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_whitening_sees_only_what_counts(unbiased):
  x, _, mask = ragged(2, lengths=(5, 3, 2))
  found = np.asarray(returns.whiten(x, mask, unbiased=unbiased))
  kept = x[mask]
  std = np.sqrt(kept.var(ddof=int(unbiased)) + 1e-8)
  np.testing.assert_allclose(found[mask], (kept - kept.mean()) / std)
  assert not found[~mask].any()


def test_whitening_nothing_is_nothing():
  nothing = np.zeros((2, 3), bool)
  assert not np.asarray(returns.whiten(GRID[:2], nothing, unbiased=True)).any()


def test_groups_are_compared_within_themselves():
  score = np.array([1.0, 2.0, 6.0, 0.0, 0.0, 0.0])
  found = np.asarray(returns.over_group(score, 3, scale=True))
  std = np.std([1, 2, 6], ddof=1) + 1e-4
  np.testing.assert_allclose(found, [-2 / std, -1 / std, 3 / std, 0, 0, 0])
  found = np.asarray(returns.over_group(score, 3, scale=False))
  np.testing.assert_allclose(found, [-2, -1, 3, 0, 0, 0])


def test_leave_one_out_leaves_the_right_one_out():
  found = np.asarray(returns.leave_one_out(jnp.array([1.0, 2.0, 6.0]), 3))
  np.testing.assert_allclose(found, [1 - 4, 2 - 3.5, 6 - 1.5])


@pytest.mark.parametrize("group", [1, 4])
def test_scores_that_are_no_groups_are_refused(group):
  with pytest.raises(ValueError, match=f"groups of {group}"):
    returns.leave_one_out(jnp.zeros(6), group)


def test_estimators_have_the_mean_of_the_kl_enumerated():
  r = np.random.default_rng(3)
  p, q = r.dirichlet(np.ones(7), size=2)
  d = np.log(p) - np.log(q)
  true = (p * d).sum()
  mean = {k: float((p * kl.estimate(d, k)).sum()) for k in ("k1", "k2", "k3")}
  assert mean["k1"] == pytest.approx(true, rel=1e-12)
  assert mean["k3"] == pytest.approx(true, rel=1e-12)
  assert (np.asarray(kl.estimate(d, "k3")) >= 0).all()
  np.testing.assert_allclose(kl.estimate(d, "k2"), d**2 / 2)
  # k3 of the other difference is another direction's: seen here.
  assert (p * kl.estimate(-d, "k3")).sum() != pytest.approx(true, rel=1e-2)


@pytest.mark.parametrize(
  "found, after",
  [
    (0, 0.148464),
    (3, 0.14694372864),
    (6, 0.14694372864),
    (6.6, 0.1476960805),
  ],
)
def test_the_coefficient_has_its_published_values(found, after):
  """One after the other, as the reference code was run."""
  beta = 0.15
  for nats in (0, 3, 6, 6.6):
    beta = kl.adapted(beta, nats, target=6, horizon=10_000, episodes=512)
    if nats == found:
      break
  assert beta == pytest.approx(after, rel=1e-9)
