"""What keeps experts evenly used: once, for every row, however it is cut."""

import dataclasses
import functools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import trees
from llm_jax.models.config import Experts
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.mixed import carrying, Mixed
from llm_jax.objectives.packed import Packed
from llm_jax.objectives.routed import Routed
from llm_jax.ops import routing
from llm_jax.ops.metrics import Largest
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from tests import small

BALANCE, Z = 0.3, 0.05
CONFIG = dataclasses.replace(
  small.CONFIG, mlp_dim=8, experts=Experts(num=4, per_token=2)
)
OURS = Routed(Packed(Causal()), BALANCE, Z)


def batch_of(packed=False):
  batch = small.causal_batch()
  if not packed:
    return batch
  B, T = batch["mask_BT"].shape
  length = batch["mask_BT"].sum(1, keepdims=True)
  place = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
  first = place < length // 2
  segment = np.where(first, 1, np.where(place < length, 2, 0))
  position = np.where(first, place, place - length // 2)
  return batch | {
    "segment_BT": segment.astype(np.int32),
    "position_BT": np.maximum(position, 0).astype(np.int32),
  }


def score_of(model):
  return lambda v, batch, *, key, temperature=1.0: model.apply(
    v, batch, temperature=temperature, method="score"
  )


def loss_of(batch, microbatches, objective=OURS):
  """The loss alone, which is compiled sooner."""
  model, variables = small.build(CONFIG)
  forward, roles = {"policy": score_of(model)}, {"policy": variables}

  def whole(batch):
    weighed, group = objective.weigh(batch), objective.rows_together
    parts = step_lib.cut(weighed, microbatches, group)
    part = lambda i: {name: x[i] for name, x in parts.items()}
    return sum(
      objective.loss(forward, roles, part(i), None)[0]
      for i in range(microbatches)
    )

  return float(jax.jit(whole)(batch))


def run(batch, microbatches=1, objective=OURS):
  """(metrics, what a step of slope 1 moved)."""
  model, variables = small.build(CONFIG)
  optimizer = optax.sgd(1.0)
  state = state_lib.create(
    {"policy": variables}, lambda path: True, optimizer, jax.random.key(3)
  )
  step = functools.partial(
    step_lib.train_step,
    objective=objective,
    forward={"policy": score_of(model)},
    optimizer=optimizer,
    microbatches=microbatches,
  )
  after, metrics = jax.jit(step)(state, batch)
  moved = jax.tree.map(jnp.subtract, state.trainable, after.trainable)
  return {name: m.compute() for name, m in metrics.items()}, moved


@pytest.fixture(scope="module")
def whole():
  with jax.enable_x64(True):
    return run(batch_of(packed=True))


def test_microbatches_never_change_it(whole):
  with jax.enable_x64(True):
    metrics, moved = run(batch_of(packed=True), 4)
  chex.assert_trees_all_close(moved, whole[1], atol=1e-12, rtol=0)
  assert metrics.keys() == whole[0].keys()
  for name, value in whole[0].items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-12)


def test_mutant_a_balance_of_batches_is_caught(monkeypatch, whole):
  """Of all rows of a microbatch at once, as most trainers have it."""
  tell = routing.tell

  def of_batch(logits, choice, real):
    flat = lambda x: x.reshape(1, -1, *x.shape[2:])
    one = tell(flat(logits), flat(choice), flat(real))
    own = tell(logits, choice, real)
    every = jnp.broadcast_to(one.balance_LB, own.balance_LB.shape)
    return own._replace(balance_LB=every)

  monkeypatch.setattr(routing, "tell", of_batch)
  with jax.enable_x64(True):
    once, cut = (loss_of(batch_of(packed=True), n) for n in (1, 2))
  assert abs(once - cut) > 1e-4


def test_it_is_added_once_to_every_layer_and_row(whole):
  """By hand from what one forward tells; padding is nothing."""
  batch = batch_of(packed=True)
  with jax.enable_x64(True):
    model, variables = small.build(CONFIG)
    told = model.apply(variables, batch, method="score").routing
    plain = loss_of(batch, 1, Packed(Causal()))
  metrics, moved = whole
  there = batch["segment_BT"].any(1)
  mean = lambda x_LB: np.asarray(x_LB)[:, there].mean()
  terms = BALANCE * mean(told.balance_LB) + Z * mean(told.z_LB)
  added = metrics["loss"] - plain
  np.testing.assert_allclose(added, CONFIG.num_layers * terms, rtol=1e-12)
  np.testing.assert_allclose(metrics["balance"], mean(told.balance_LB))
  np.testing.assert_allclose(metrics["router_z"], mean(told.z_LB))
  np.testing.assert_allclose(metrics["router_entropy"], mean(told.entropy_LB))
  load_LM = np.asarray(told.load_LBM).sum(1)
  real = (batch["segment_BT"] > 0).sum()
  assert (load_LM.sum(1) == 2 * real).all()
  busiest = (load_LM / real).max(1).mean()
  np.testing.assert_allclose(metrics["busiest_expert"], busiest)
  # Every router learns.
  for path, x in trees.paths(moved):
    if path.endswith("router"):
      assert (np.abs(x).max((1, 2)) > 1e-4).all()


def test_rows_beside_weigh_among_themselves():
  batch = batch_of()
  few = {name: x[:4] for name, x in batch.items()}
  both, plain = carrying(batch, [few]), Packed(Mixed(Causal(), (2.0,)))
  with jax.enable_x64(True):
    model, variables = small.build(CONFIG)
    told = model.apply(variables, batch, method="score").routing
    found = loss_of(both, 2, Routed(plain, BALANCE, Z))
    want = loss_of(both, 1, plain)
  balance_LB, z_LB = np.asarray(told.balance_LB), np.asarray(told.z_LB)
  term_B = (BALANCE * balance_LB + Z * z_LB).sum(0)
  want += term_B.mean() + term_B[:4].mean()
  np.testing.assert_allclose(found, want, rtol=1e-12)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_rows_that_are_only_compared_with_do_not_count(microbatches):
  """Half of KTO's rows; the mutant counts them, and halves what is added."""
  batch = batch_of()
  mask_BT = jnp.asarray(batch["mask_BT"])
  batch |= {
    "label_B": jnp.arange(len(mask_BT)) % 4 // 2,
    "ref_logp_B": jnp.zeros(len(mask_BT)),
    "other_B": jnp.zeros(len(mask_BT)),
  }
  plain = Packed(KTO())
  with jax.enable_x64(True):
    model, variables = small.build(CONFIG)
    told = model.apply(variables, batch, method="score").routing
    found, want = (
      loss_of(batch, microbatches, its)
      for its in (Routed(plain, BALANCE, Z), plain)
    )
    with mock.patch.object(KTO, "moved_by", lambda self, batch: None):
      half = loss_of(batch, microbatches, Routed(plain, BALANCE, Z))
  balance_LB, z_LB = np.asarray(told.balance_LB), np.asarray(told.z_LB)
  added = (BALANCE * balance_LB + Z * z_LB).sum(0)[::2].mean()
  np.testing.assert_allclose(found - want, added, rtol=1e-11)
  np.testing.assert_allclose(half - want, added / 2, rtol=1e-11)


def test_the_largest_of_means_is_taken_at_the_end():
  parts = [np.array([[3.0, 1.0], [2.0, 2.0]]), np.array([[0.0, 4.0], [1.0, 3]])]
  add = Largest(parts[0], np.array(4.0)) + Largest(parts[1], np.array(4.0))
  assert add.compute() == (5 / 8 + 5 / 8) / 2
  # The mutant: the mean of the largest of each.
  each = np.mean([Largest(p, np.array(4.0)).compute() for p in parts])
  assert abs(each - add.compute()) > 0.1
  assert Largest(np.zeros((1, 2)), np.array(0.0)).compute() == 0
