"""PPO is TRL's two, see goldens/make_ppo.py; and the mistakes of others."""

import dataclasses
import json
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives import policy
from llm_jax.objectives.ppo import PPO
from llm_jax.ops import returns
from tests.objectives import table

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "ppo.npz"
GOLD = dict(np.load(PATH))
RLAX = json.loads(PATH.with_name("rlax.json").read_text())
START, BETA = 2, 0.3
CASES = [(t, w) for t in ("last", "after") for w in (False, True)]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def objective(terminal="last", whiten_rewards=False, **changes):
  return PPO(
    gamma=0.95,
    lam=0.9,
    value_weight=1.0,
    terminal=terminal,
    whiten_rewards=whiten_rewards,
    critic="shared",
    **changes,
  )


def scores(variables, batch, *, key=None, entropy=False):
  del entropy
  return table.scores(variables, batch, key=key)


def rows():
  """All responses, as drawn: whole rows, in which the prompt is masked."""
  row = GOLD["row"]
  tokens_BT, target_BT = row[:, :-1], row[:, 1:]
  T = tokens_BT.shape[1]
  end_B1 = START - 1 + GOLD["lengths"][:, None]
  mask_BT = (np.arange(T) >= START - 1) & (np.arange(T) < end_B1)
  wide = lambda x: np.pad(x, [(0, 0), (START - 1, 0)])
  return {
    "tokens_BT": tokens_BT,
    "target_BT": target_BT,
    "mask_BT": mask_BT,
    "old_logp_BT": wide(GOLD["old"]),
    "ref_logp_BT": wide(GOLD["ref_logp"]),
    "old_value_BT": wide(GOLD["values"]),
    "score_B": GOLD["scores"],
    "beta_B": np.full(len(row), BETA),
  }


def credited(objective, batch=None):
  batch = batch or rows()
  return jax.jit(objective.credit)(
    {k: jnp.asarray(x) for k, x in batch.items()}
  )


def new():
  return {"policy": {k: jnp.asarray(GOLD[f"new/{k}"]) for k in "wp"}}


@pytest.mark.parametrize("terminal, whitened", CASES)
def test_advantages_and_returns_are_trls(terminal, whitened):
  out = credited(objective(terminal, whitened))
  name = f"{terminal}/{whitened}"
  for ours, theirs in (("advantage_BT", "advantage"), ("return_BT", "return")):
    found = np.asarray(out[ours])[:, START - 1 :]
    np.testing.assert_allclose(found, GOLD[f"{name}/{theirs}"], atol=1e-11)
  if not whitened:  # what is paid to a completion, before whitening
    np.testing.assert_allclose(
      out["rlhf_reward_B"], GOLD[f"{name}/reward"].sum(1), rtol=1e-11
    )
    np.testing.assert_allclose(
      out["non_score_reward_B"],
      GOLD[f"{name}/reward"].sum(1) - GOLD["scores"],
      atol=1e-11,
    )


@pytest.mark.parametrize("terminal, whitened", CASES)
def test_losses_and_gradients_are_trls(terminal, whitened):
  name = f"{terminal}/{whitened}"
  its = objective(terminal, whitened)
  batch = credited(its)
  for which, weight in (("policy", 0.0), ("value", 0.1)):
    # Advantages of nothing leave the critic alone.
    part = dict(batch)
    if which == "value":
      part["advantage_BT"] = jnp.zeros_like(batch["advantage_BT"])
    found, gradient, _ = table.step(
      dataclasses.replace(its, value_weight=weight), new(), part, score=scores
    )
    np.testing.assert_allclose(
      found, GOLD[f"{name}/{which}_loss"], rtol=1e-10, atol=1e-14
    )
    for letter in "wp":
      np.testing.assert_allclose(
        gradient[letter], GOLD[f"{name}/{which}_{letter}"], atol=1e-12
      )


def test_microbatches_never_change_a_step():
  its = objective("after", whiten="minibatch", entropy=0.0)
  batch = {k: np.concatenate([x] * 4)[:16] for k, x in credited(its).items()}
  one = table.step(its, new(), batch, score=scores)
  many = table.step(its, new(), batch, 4, score=scores)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_a_step_begins_at_ratio_1_and_clips_later():
  its = objective()
  batch = credited(its)
  old = {"policy": {k: jnp.asarray(GOLD[f"old/{k}"]) for k in "wp"}}
  _, _, first = table.step(its, old, batch, score=scores)
  assert first["ratio"] == pytest.approx(1, abs=1e-13)
  assert first["kl_old"] == pytest.approx(0, abs=1e-13)
  assert first["clipped"] == first["value_clipped"] == 0
  _, _, later = table.step(its, new(), batch, score=scores)
  assert later["clipped"] > 0 and later["value_clipped"] > 0


def test_old_probabilities_made_anew_in_each_step_never_clip():
  """EasyLM's mistake: what was drawn is compared with itself."""
  its, batch = objective(), credited(objective())
  now = scores(new()["policy"], batch)
  anew = {**batch, "old_logp_BT": now.logp_BT}
  _, _, metrics = table.step(its, new(), anew, score=scores)
  assert metrics["clipped"] == 0
  _, _, metrics = table.step(its, new(), batch, score=scores)
  assert metrics["clipped"] > 0


def test_a_reward_made_whole_is_seen():
  """tunix's mistake: scores go through integers."""
  batch = rows()
  cut = {**batch, "score_B": batch["score_B"].astype(int).astype(float)}
  found, wrong = (credited(objective(), b)["return_BT"] for b in (batch, cut))
  assert np.abs(found - wrong).max() > 0.1


def test_what_stands_under_the_mask_does_not_matter():
  its, batch = objective("after", True), rows()
  out = credited(its)
  seen_BT = np.asarray(out["value_mask_BT"])
  spoilt = {
    **batch,
    **{
      name: np.where(
        batch["mask_BT"] if name != "old_value_BT" else seen_BT,
        batch[name],
        np.nan,
      )
      for name in ("old_logp_BT", "ref_logp_BT", "old_value_BT")
    },
  }
  again = credited(its, spoilt)
  for name in ("advantage_BT", "return_BT"):
    np.testing.assert_array_equal(again[name], out[name])


def test_the_two_conventions_differ():
  last, after = (
    credited(objective(t))["advantage_BT"] for t in ("last", "after")
  )
  assert np.abs(last - after).max() > 1e-2


def test_advantages_are_rlaxs():
  row = lambda name: jnp.array([RLAX[name]])
  found = returns.gae(
    row("reward"), row("value"), row("value") != 0, RLAX["gamma"], RLAX["lam"]
  )
  np.testing.assert_allclose(found[0], RLAX["advantage"], rtol=1e-12)


def test_the_clipped_surrogate_is_rlaxs():
  its = PPO(clip=RLAX["epsilon"])
  log_ratio = jnp.log(jnp.array([RLAX["ratio"]]))
  mask_BT = jnp.ones_like(log_ratio, bool)
  batch = {
    "mask_BT": mask_BT,
    "weight_BT": mask_BT / mask_BT.size,
    "advantage_BT": jnp.array([RLAX["advantage"]]),
    "old_logp_BT": jnp.zeros_like(log_ratio),
  }
  loss = lambda x: its.of_scores(Scores(x, x), batch)[0]
  found, gradient = jax.value_and_grad(loss)(log_ratio)
  assert found == pytest.approx(RLAX["loss"], rel=1e-12)
  # Theirs is in the ratio, ours in its logarithm.
  theirs = np.array(RLAX["gradient"]) * np.array(RLAX["ratio"])
  np.testing.assert_allclose(gradient[0], theirs, rtol=1e-12)


def test_a_ratio_without_bounds_leaves_the_others_their_gradient():
  """A token e^100 times as likely; the mutant's gradient is none at all."""
  log_ratio = jnp.array([[0.1, 100.0, -100.0, -0.1]], jnp.float32)
  mask_BT = jnp.ones_like(log_ratio, bool)
  batch = {
    "mask_BT": mask_BT,
    "weight_BT": jnp.full_like(log_ratio, 0.25),
    "advantage_BT": jnp.array([[1.0, 1.0, -1.0, -1.0]], jnp.float32),
    "old_logp_BT": jnp.zeros_like(log_ratio),
  }
  loss = lambda x: PPO().of_scores(Scores(x, x), batch)[0]
  value, gradient = jax.value_and_grad(loss)(log_ratio)
  want = -0.25 * jnp.exp(0.1), 0, 0, 0.25 * jnp.exp(-0.1)
  np.testing.assert_allclose(gradient[0], want, rtol=1e-6)
  assert value == pytest.approx(
    0.25 * (-np.exp(0.1) - 1.2 + 0.8 + np.exp(-0.1)), rel=1e-5
  )
  with mock.patch.object(policy, "_FAR", np.inf):
    assert not jnp.isfinite(jax.grad(loss)(log_ratio)).all()
