"""The step: microbatches never change the result; frozen means frozen."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.objectives.causal import Causal
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from tests import small
from tests.training import quadratic


def run(objective, batch, microbatches=1, trainable=lambda p: True, **kwargs):
  model, variables = small.build()
  optimizer = optax.sgd(1.0)
  state = state_lib.create(
    {"policy": variables}, trainable, optimizer, jax.random.key(3), **kwargs
  )
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=objective,
      forward={"policy": small.score_fn(model)},
      optimizer=optimizer,
      microbatches=microbatches,
      average_decay=0.9 if kwargs.get("average") else None,
    )
  )
  return state, *step(state, batch)


@pytest.mark.parametrize("microbatches", [2, 4, 8])
@pytest.mark.parametrize(
  "objective", [Causal("token", z_loss=1e-2), Causal("sequence")], ids=str
)
def test_microbatches_never_change_the_update(objective, microbatches):
  batch = small.causal_batch()
  with jax.enable_x64(True):
    _, one, of_one = run(objective, batch)
    _, many, of_many = run(objective, batch, microbatches)
  chex.assert_trees_all_close(one.trainable, many.trainable, atol=1e-12, rtol=0)
  for name in of_one:
    np.testing.assert_allclose(
      of_one[name].compute(), of_many[name].compute(), rtol=1e-12
    )


def test_the_norm_reported_is_of_the_whole_batch_before_clipping():
  x_BD = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
  state = state_lib.create(
    {"policy": {"w_D": jnp.arange(3.0)}},
    lambda path: True,
    optimizer,
    jax.random.key(0),
  )
  step = functools.partial(
    step_lib.train_step,
    objective=quadratic.Quadratic(),
    forward={},
    optimizer=optimizer,
    microbatches=2,
  )
  after, metrics = jax.jit(step)(state, {"x_BD": x_BD})
  gradient_BD = 2 * (np.arange(3.0) - x_BD)
  got = metrics["grad_norm"].compute()
  np.testing.assert_allclose(got, np.linalg.norm(gradient_BD.mean(0)), 1e-6)
  moved = np.arange(3.0) - after.trainable["policy"]["w_D"]
  np.testing.assert_allclose(np.linalg.norm(moved), 0.1, rtol=1e-5)
  # The mutant: the mean of the norms of two microbatches.
  halves = [np.linalg.norm(gradient_BD[i::2].mean(0)) for i in range(2)]
  assert abs(np.mean(halves) / got - 1) > 1e-2


def test_a_mean_of_means_is_caught():
  """The mutant: weigh each microbatch by its own tokens, then average."""
  batch = small.causal_batch()
  with jax.enable_x64(True):
    before, right, _ = run(Causal(), batch)
    parts = [{k: v[i::2] for k, v in batch.items()} for i in range(2)]
    halves = [run(Causal(), part)[1].trainable for part in parts]
    mutant = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(mutant, right.trainable, atol=1e-4, rtol=0)


def test_causal_loss_is_the_naive_loop():
  batch = small.causal_batch()
  with jax.enable_x64(True):
    model, variables = small.build()
    state, _, metrics = run(Causal(), batch)
    x_BTD = model.apply(state.trainable["policy"], batch["tokens_BT"])
    logits = np.asarray(
      x_BTD @ state.trainable["policy"]["params"]["embedding"].T
    )
  total, count = 0.0, 0
  for b in range(small.DIMS.B):
    for t in range(small.DIMS.T):
      if batch["mask_BT"][b, t]:
        p = np.exp(logits[b, t] - logits[b, t].max())
        total -= np.log(p[batch["target_BT"][b, t]] / p.sum())
        count += 1
  np.testing.assert_allclose(metrics["loss"].compute(), total / count, 1e-12)
  np.testing.assert_allclose(metrics["nll"].compute(), total / count, 1e-12)
  assert metrics["tokens"].compute() == count


def test_frozen_is_frozen_and_has_no_optimizer_state():
  batch = small.causal_batch()
  only_mlp = lambda path: "/mlp/" in path
  before, after, _ = run(Causal(), batch, 2, only_mlp)
  chex.assert_trees_all_equal(before.frozen, after.frozen)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), before.trainable, after.trainable
  )
  assert jax.tree.leaves(moved) and all(jax.tree.leaves(moved))
  adam = optax.adam(1e-3).init(before.trainable)
  num = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert num(adam) == 2 * num(before.trainable) + 1


def test_a_non_finite_step_changes_nothing_but_the_count():
  batch = small.causal_batch()
  bad = dict(batch, tokens_BT=batch["tokens_BT"])
  model, variables = small.build()
  variables["params"]["final_norm"]["scale"] *= jnp.nan
  state = state_lib.create(
    {"policy": variables},
    lambda p: True,
    optax.adam(1.0),
    jax.random.key(0),
  )
  step = functools.partial(
    step_lib.train_step,
    objective=Causal(),
    forward={"policy": small.score_fn(model)},
    optimizer=optax.adam(1.0),
  )
  new, metrics = jax.jit(step)(state, bad)
  chex.assert_trees_all_equal(new.trainable, state.trainable)
  chex.assert_trees_all_equal(new.opt_state, state.opt_state)
  assert (int(new.step), int(new.skipped)) == (1, 1)
  assert not np.isfinite(metrics["loss"].compute())


def test_average_follows_its_formula():
  before, after, _ = run(Causal(), small.causal_batch(), average=True)
  want = jax.tree.map(
    lambda a, b: 0.9 * a + 0.1 * b, before.trainable, after.trainable
  )
  chex.assert_trees_all_close(after.average, want, atol=1e-6)


def test_rows_of_a_cut_batch_stay_on_their_device():
  """Interleaved rows move nothing; contiguous ones, the mutant, do."""
  devices = np.array(jax.devices()[:8]).reshape(8)
  mesh = jax.sharding.Mesh(devices, ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  out = jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(None, "data")
  )
  x = jax.device_put(jnp.arange(64.0).reshape(16, 4), rows)

  def text(f):
    return jax.jit(f, out_shardings=out).lower(x).compile().as_text()

  moves = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
  ours = text(lambda x: step_lib.cut({"x": x}, 2)["x"])
  mutant = text(lambda x: x.reshape(2, 8, 4))
  assert not any(m in ours for m in moves)
  assert any(m in mutant for m in moves)
