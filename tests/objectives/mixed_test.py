"""What is modelled beside adds its own gradient, and nothing else.

Dimension key: B rows of each source; T positions; V vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives import mixed
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.mixed import Mixed
from llm_jax.objectives.ppo import PPO
from tests.objectives import table

V, TEMPERATURE, WEIGHTS = 5, 0.7, (0.3, 1.7)
PLAIN = PPO(critic="shared", entropy=0.01)


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def score(variables, batch, *, key=None, entropy=False, temperature=1.0):
  del key
  tokens_BT = batch["tokens_BT"]
  at_TV = variables["p"][: tokens_BT.shape[1]]
  logits_BTV = (variables["w"][tokens_BT] + at_TV) / temperature
  logp_BTV = jax.nn.log_softmax(logits_BTV)
  logp_BT = jnp.take_along_axis(logp_BTV, batch["target_BT"][..., None], -1)
  entropy_BT = -(jnp.exp(logp_BTV) * logp_BTV).sum(-1) if entropy else None
  return Scores(
    logp_BT[..., 0],
    jax.nn.logsumexp(logits_BTV, -1),
    entropy_BT,
    output_BTO=logits_BTV[..., :1],
  )


DRAWN = functools.partial(score, temperature=TEMPERATURE)
R = np.random.default_rng(0)
POLICY = {"w": R.normal(size=(V, V)), "p": R.normal(size=(9, V))}


def text(rows, length):
  """Rows of which ever more counts, so that means of means are others."""
  ids = R.integers(0, V, (rows, length + 1))
  return {
    "tokens_BT": ids[:, :-1],
    "target_BT": ids[:, 1:],
    "mask_BT": np.arange(length) <= np.arange(rows)[:, None],
  }


OTHERS = [text(4, 6), text(8, 3)]


def drawn():
  batch = text(8, 5)
  shape = batch["mask_BT"].shape
  return batch | {
    "old_logp_BT": R.normal(size=shape) / 9 - 1,
    "advantage_BT": R.normal(size=shape),
    "value_mask_BT": batch["mask_BT"],
    "return_BT": R.normal(size=shape),
    "old_value_BT": R.normal(size=shape),
  }


BATCH = drawn()
WHOLE = mixed.carrying(BATCH, OTHERS)


def step(objective, batch, cuts=1):
  given = {"policy": jax.tree.map(jnp.asarray, POLICY)}
  return table.step(objective, given, batch, cuts, score=DRAWN)


def by_hand(rows, temperature=1.0):
  """Mean -log p of what counts, and its gradient in each weight."""
  loss, count = 0.0, rows["mask_BT"].sum()
  gradient = {name: np.zeros_like(x) for name, x in POLICY.items()}
  for b, t in np.argwhere(rows["mask_BT"]):
    x, y = rows["tokens_BT"][b, t], rows["target_BT"][b, t]
    logits = (POLICY["w"][x] + POLICY["p"][t]) / temperature
    p = np.exp(logits) / np.exp(logits).sum()
    loss -= np.log(p[y]) / count
    slope = (p - np.eye(V)[y]) / temperature / count
    gradient["w"][x] += slope
    gradient["p"][t] += slope
  return loss, gradient


def wanted(temperature=1.0):
  loss, gradient, _ = step(PLAIN, BATCH)
  for rows, weight in zip(OTHERS, WEIGHTS, strict=True):
    more, slope = by_hand(rows, temperature)
    loss += weight * more
    gradient = {k: g + weight * slope[k] for k, g in gradient.items()}
  return loss, gradient


@pytest.mark.parametrize("cuts", [1, 2, 4])
def test_the_gradient_is_ppos_and_that_of_language_modelling(cuts):
  loss, gradient, told = step(Mixed(PLAIN, WEIGHTS), WHOLE, cuts)
  for at, same in ((1.0, True), (TEMPERATURE, False)):
    # The mutant: text scored at the temperature of drawing.
    want, slope = wanted(at)
    assert (abs(loss - want) < 1e-12) == same
    for name, x in slope.items():
      assert (np.abs(gradient[name] - x).max() < 1e-12) == same
  for name, rows in zip(("ptx_nll", "ptx1_nll"), OTHERS, strict=True):
    assert told[name] == pytest.approx(by_hand(rows)[0], abs=1e-12)


def test_a_mean_of_means_is_another(monkeypatch):
  """The mutant: each microbatch of text weighed by itself."""
  right = step(Mixed(PLAIN, WEIGHTS), WHOLE)[0]
  loss = Causal.loss
  monkeypatch.setattr(
    Causal,
    "loss",
    lambda self, f, r, rows, key: loss(
      self,
      f,
      r,
      {
        k: x / 2 if k == "weight_BT" else x for k, x in self.weigh(rows).items()
      },
      key,
    ),
  )
  wrong = step(Mixed(PLAIN, WEIGHTS), WHOLE, 2)[0]
  assert abs(wrong - right) > 1e-3


def test_what_ppo_says_of_its_rows_is_what_it_says_alone():
  _, _, alone = step(PLAIN, BATCH)
  _, _, told = step(Mixed(PLAIN, WEIGHTS), WHOLE)
  for name, x in alone.items():
    assert told[name] == pytest.approx(x, abs=1e-12), name
  assert set(told) - set(alone) == {"ptx_nll", "ptx1_nll"}


def test_it_is_its_objective_in_all_else():
  its = Mixed(PLAIN, WEIGHTS)
  for name in ("reads", "rows_together", "needs_reference", "needs_critic"):
    assert getattr(its, name) == getattr(PLAIN, name)
  own = Mixed(PPO(), WEIGHTS)
  assert own.needs_critic and own.needs_reference
