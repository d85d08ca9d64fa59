"""Group methods are their papers' formulas, written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives import group

B, T, K, LIMIT = 8, 6, 4, 5
LENGTHS = np.array([5, 4, 1, 3, 5, 2, 2, 4])


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def batch():
  r = np.random.default_rng(0)
  mask = (np.arange(T) >= 1) & (np.arange(T) < 1 + LENGTHS[:, None])
  numbers = lambda scale: np.where(mask, scale * r.normal(size=(B, T)), 0)
  old = numbers(1.0) - 2
  return {
    "mask_BT": mask,
    "old_logp_BT": old,
    "ref_logp_BT": old + numbers(0.5),
    "new": old + numbers(0.3),
    "score_B": r.normal(size=B),
    "beta_B": np.full(B, 0.3),
    "limit_B": np.full(B, LIMIT),
  }


def losses(objective, rows):
  """The loss and its gradient in each token's new log-probability."""
  rows = dict(rows)
  new = jnp.array(rows.pop("new"))
  rows = {name: jnp.asarray(x) for name, x in rows.items()}
  weighed = objective.weigh(objective.credit(rows))

  def loss(x):
    return objective.of_scores(Scores(x, x), weighed)[0]

  return jax.jit(jax.value_and_grad(loss))(new)


def by_group(score):
  return [score[i // K * K : i // K * K + K] for i in range(B)]


def tokens(rows, i):
  return np.flatnonzero(rows["mask_BT"][i])


def surrogate(ratio, advantage, low=0.2, high=0.2):
  cut = min(max(ratio, 1 - low), 1 + high)
  return max(-advantage * ratio, -advantage * cut)


def k3(rows, i, t):
  d = rows["ref_logp_BT"][i, t] - rows["new"][i, t]
  return np.exp(d) - d - 1


def ratio(rows, i, t):
  return np.exp(rows["new"][i, t] - rows["old_logp_BT"][i, t])


def standard(rows, i):
  score, of = rows["score_B"], by_group(rows["score_B"])
  return (score[i] - of[i].mean()) / (of[i].std(ddof=1) + 1e-4)


def grpo(rows):
  """arXiv:2402.03300, eq. 3."""
  return np.mean(
    [
      np.mean(
        [
          surrogate(ratio(rows, i, t), standard(rows, i))
          + 0.04 * k3(rows, i, t)
          for t in tokens(rows, i)
        ]
      )
      for i in range(B)
    ]
  )


def dr_grpo(rows):
  """arXiv:2503.20783: neither the length nor the deviation divides."""
  score, of = rows["score_B"], by_group(rows["score_B"])
  each = [
    surrogate(ratio(rows, i, t), score[i] - of[i].mean())
    for i in range(B)
    for t in tokens(rows, i)
  ]
  return sum(each) / (B * LIMIT)


def dapo(rows):
  """arXiv:2503.14476, eq. 8."""
  each = [
    surrogate(ratio(rows, i, t), standard(rows, i), 0.2, 0.28)
    for i in range(B)
    for t in tokens(rows, i)
  ]
  return np.mean(each)


def gspo(rows):
  """arXiv:2507.18071, eq. 5 and 7."""
  each = []
  for i in range(B):
    logs = [np.log(ratio(rows, i, t)) for t in tokens(rows, i)]
    each.append(surrogate(np.exp(np.mean(logs)), standard(rows, i), 3e-4, 4e-4))
  return np.mean(each)


def paid(rows):
  """Scores less beta times the k1 of a completion."""
  k1 = (rows["old_logp_BT"] - rows["ref_logp_BT"]) * rows["mask_BT"]
  return rows["score_B"] - 0.3 * k1.sum(1), k1


def rloo(rows):
  """arXiv:2402.14740, eq. 8, but for the number that all is divided by."""
  reward, _ = paid(rows)
  of = by_group(reward)
  each = [
    surrogate(
      ratio(rows, i, t), reward[i] - (of[i].sum() - reward[i]) / (K - 1)
    )
    for i in range(B)
    for t in tokens(rows, i)
  ]
  return sum(each) / (B * LIMIT)


def reinforce_pp(rows):
  """arXiv:2501.03262, eq. 5 to 7."""
  _, k1 = paid(rows)
  raw = {
    (i, t): rows["score_B"][i] - 0.3 * k1[i, t:].sum()
    for i in range(B)
    for t in tokens(rows, i)
  }
  all_ = np.array(list(raw.values()))
  std = np.sqrt(all_.var() + 1e-8)
  each = [
    surrogate(ratio(rows, i, t), (a - all_.mean()) / std)
    for (i, t), a in raw.items()
  ]
  return np.mean(each)


METHODS = {
  "grpo": (group.grpo(K), grpo),
  "dr_grpo": (group.dr_grpo(K), dr_grpo),
  "dapo": (group.dapo(K), dapo),
  "gspo": (group.gspo(K), gspo),
  "rloo": (group.rloo(K), rloo),
  "reinforce_pp": (group.reinforce_pp(), reinforce_pp),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_is_its_papers(name):
  objective, by_hand = METHODS[name]
  found, gradient = losses(objective, batch())
  assert found == pytest.approx(by_hand(batch()), rel=1e-11)
  # Each of the others is another loss: the test tells them apart.
  others = [f(batch()) for n, (_, f) in METHODS.items() if n != name]
  assert min(abs(found - x) for x in others) > 1e-4
  assert np.isfinite(gradient).all()
  assert not np.asarray(gradient)[~batch()["mask_BT"]].any()


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_differences(name):
  objective, by_hand = METHODS[name]
  _, gradient = losses(objective, batch())
  for i, t in ((0, 2), (2, 1), (7, 4)):
    moved = []
    for sign in (1, -1):
      rows = batch()
      rows["new"][i, t] += sign * 1e-6
      moved.append(by_hand(rows))
    numeric = (moved[0] - moved[1]) / 2e-6
    assert float(gradient[i, t]) == pytest.approx(numeric, abs=1e-8)


def test_a_group_of_one_score_teaches_nothing():
  rows = {**batch(), "score_B": np.ones(B)}
  objective = group.dapo(K)
  credited = objective.credit({n: jnp.asarray(x) for n, x in rows.items()})
  assert not np.asarray(credited["advantage_BT"]).any()


def test_groups_that_are_not_side_by_side_are_seen():
  rows = batch()
  order = np.arange(B).reshape(2, K).T.reshape(-1)  # a b a b ...
  mixed = {n: x[order] for n, x in rows.items()}
  found, wrong = (losses(group.grpo(K), r)[0] for r in (rows, mixed))
  assert abs(found - wrong) > 1e-3
