"""Rows as wide as they need be: as few programs, the same that is learned."""

import dataclasses
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import model as model_lib
from llm_jax import on_policy, reinforcing, state_plan
from llm_jax.contracts import Verdict
from llm_jax.experiment import Experiment
from llm_jax.generation import widths
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import Bytes
from tests import small

N, UPDATES, STOP = 6, 6, (3, 5, 7)
SHAPE = dataclasses.replace(small.CONFIG, num_layers=1, outputs=1)
# One long prompt: in few updates a row is as wide as it can be.
LENGTHS = (1, 2, 3, 2, 1, 3, 2, 1, 3, 1, 2, 14)


def prompts(lengths=LENGTHS):
  r = np.random.default_rng(0)
  ids = [r.integers(8, small.DIMS.V, n).tolist() for n in lengths]
  return [on_policy.Prompt((("user", str(i)),), i) for i in ids]


@pytest.fixture(scope="module")
def furniture():
  """(functions, roles, forward) in float64."""
  with jax.enable_x64(True):
    _, variables = small.build(SHAPE)
    model = model_lib.of_shape(dataclasses.replace(SHAPE, dtype="float64"))
    its = experiment(1)
    roles = dict.fromkeys(("policy", "reference"), variables)
    forward = state_plan.forward(model, its.scored_at)
    return reinforcing.functions(its, model, STOP), roles, forward


def experiment(number):
  return Experiment(
    model=dataclasses.replace(SHAPE, dtype="float64"),
    objective=PPO(critic="shared"),
    tokenizer=Bytes(),
    rollouts=Rollouts(
      batch=4, epochs=1, max_new_tokens=N, widths=number, packing=0
    ),
    batch_size=2,
  )


def source(number, functions):
  its = experiment(number)
  return on_policy.OnPolicy(
    its.rollouts,
    Shaping(),
    its.objective,
    prompts(),
    functions,
    on_policy.Reward(
      text=str,
      score=lambda asked: [
        Verdict(tuple(len(c) / 9 for c in q.completions)) for q in asked
      ],
    ),
    (0, 1),
    seed=2,
    batch_size=its.batch_size,
    group=1,
    mesh=mesh_lib.make(mesh_lib.MeshShape(1, 1, 1)),
  )


def minibatches(number, furniture):
  functions, roles, _ = furniture
  its = source(number, functions)
  state = SimpleNamespace(roles=roles)
  return [
    jax.device_get(its.next(state)) for _ in range(UPDATES * its.per_update)
  ]


def losses(batches, furniture):
  _, roles, forward = furniture
  objective = experiment(1).objective

  @jax.jit
  def loss(batch):
    return objective.loss(forward, roles, objective.weigh(batch), None)[0]

  return [float(loss(batch)) for batch in batches]


def test_narrow_rows_are_drawn_and_learned_from_as_whole_ones(furniture):
  with jax.enable_x64(True):
    whole = minibatches(1, furniture)
    narrow = minibatches(2, furniture)
    (most,) = {b["mask_BT"].shape[1] for b in whole}
    whole = [widths.to_the_left(b, most) for b in whole]
    assert {b["mask_BT"].shape[1] for b in narrow} == {-(-most // 2), most}
    for a, b in zip(whole, narrow, strict=True):
      for name in ("target_BT", "advantage_BT", "return_BT", "old_logp_BT"):
        x, y = (
          np.where(rows["value_mask_BT"], rows[name], 0) for rows in (a, b)
        )
        assert not x[:, y.shape[1] :].any()
        np.testing.assert_allclose(x[:, : y.shape[1]], y, rtol=0, atol=1e-12)
    found = losses(narrow, furniture)
    np.testing.assert_allclose(losses(whole, furniture), found, atol=1e-12)
    # The mutant: the last place that counts is cut.
    short = mock.patch.object(
      widths, "of", lambda needed, *_: max(needed - 1, 1)
    )
    with short:
      cut = widths.cut(whole[0], most, 2)
    assert abs(losses([cut], furniture)[0] - found[0]) > 1e-6


def test_nothing_recompiles_once_each_width_was_seen():
  """The mutant has a width for every length."""
  with jax.enable_x64(True):
    _, variables = small.build(SHAPE)
    roles = dict.fromkeys(("policy", "reference"), variables)
    traced = {}
    for number in (2, 64):
      counts = traced[number] = []
      its = source(number, counting(counts))
      for _ in range(2 * UPDATES * its.per_update):
        batch = its.next(SimpleNamespace(roles=roles))
        counts.append(("step", batch["mask_BT"].shape[1]))
  compiled = [kind for kind, _ in traced[2] if kind != "step"]
  assert sorted(compiled) == ["draw", "draw", "score", "score"]
  steps = lambda number: {w for kind, w in traced[number] if kind == "step"}
  assert len(steps(2)) == 2 and len(steps(64)) > 4


def counting(traced):
  """Functions that know when they are compiled, and draw by no model."""

  @jax.jit
  def draw(roles, batch, key):
    del roles
    B, P = batch["prompt_BP"].shape
    traced.append(("draw", P))
    place = jax.numpy.arange(P + N - 1)
    begin = (P - batch["length_B"])[:, None]
    end = P + jax.random.randint(key, (B, 1), 1, N + 1)
    zeros = jax.numpy.zeros((B, P + N - 1))
    return {
      "tokens_BT": zeros.astype(int),
      "target_BT": zeros.astype(int),
      "position_BT": zeros.astype(int),
      "segment_BT": ((place >= begin) & (place < end)).astype(int),
      "mask_BT": (place >= P - 1) & (place < end - 1),
      "sampled_logp_BT": zeros,
      "ended_B": end[:, 0] < P + N,
    }

  @jax.jit
  def score(roles, batch):
    del roles
    B, T = batch["mask_BT"].shape
    traced.append(("score", T))
    x = jax.numpy.zeros((B, T))
    return {"old_logp_BT": x, "ref_logp_BT": x, "old_value_BT": x}

  return on_policy.Functions(draw, score)


def test_held_out_prompts_may_be_longer_than_all_others(furniture):
  functions, roles, _ = furniture
  with jax.enable_x64(True):
    its = source(2, functions)
    asked = prompts((20, 1, 1, 1))
    rows = its.draw(roles, asked, jax.random.key(0))
  T = 20 + 1 + N - 1
  assert rows["mask_BT"].shape == (4, T)
  assert rows["tokens_BT"][0, :21].tolist() == [0, *asked[0].ids]
