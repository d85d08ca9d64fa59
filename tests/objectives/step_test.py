"""A pair is never parted, and microbatches never change the result."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.objectives import dpo, pairwise, unreferenced
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from tests import small


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_cut_keeps_groups_and_paste_undoes_it(n, group):
  x = jnp.arange(24).reshape(24, 1)
  parts = step_lib.cut({"x": x}, n, group)
  groups = parts["x"].reshape(-1, group)
  assert (groups == groups[:, :1] + np.arange(group)).all()
  assert (groups[:, 0] % group == 0).all()
  chex.assert_trees_all_equal(step_lib.paste(parts, group), {"x": x})


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="--batch_size=6: not divisible by 2"):
    step_lib.cut({"x": jnp.arange(6)}, 2, 2)


def test_groups_of_a_cut_batch_stay_on_their_device():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
  on = lambda *spec: jax.sharding.NamedSharding(
    mesh, jax.sharding.PartitionSpec(*spec)
  )
  x = jax.device_put(jnp.arange(128.0).reshape(32, 4), on("data"))

  def text(group):
    cut = lambda x: step_lib.cut({"x": x}, 2, group)["x"]
    out = on(None, "data")
    return jax.jit(cut, out_shardings=out).lower(x).compile().as_text()

  moves = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
  assert not any(m in text(2) for m in moves)
  assert any(m in text(16) for m in moves)  # larger than a device's share


def test_two_of_a_pair_are_on_one_device():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  x = jax.device_put(jnp.arange(32.0), rows)
  moves = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
  text = lambda f: jax.jit(f, out_shardings=rows).lower(x).compile().as_text()
  ours = text(lambda x: pairwise.by_row(pairwise.by_pair(x)[:, 0]))
  mutant = text(lambda x: jnp.tile(x[:16], 2))  # chosen ones first
  assert not any(m in ours for m in moves)
  assert any(m in mutant for m in moves)


def update(objective, microbatches):
  """A step of a decoder, its reference another one."""
  shape = dataclasses.replace(small.CONFIG, num_layers=1)
  model, policy = small.build(shape)
  _, reference = small.build(shape, seed=1)
  optimizer = optax.sgd(1.0)
  state = state_lib.create(
    {"policy": policy, "reference": reference},
    lambda path: path.startswith("policy/"),
    optimizer,
    jax.random.key(0),
  )
  score = small.score_fn(model)
  step = functools.partial(
    step_lib.train_step,
    objective=objective,
    forward={"policy": score, "reference": score},
    optimizer=optimizer,
    microbatches=microbatches,
  )
  return jax.jit(step)(state, small.causal_batch())


def test_microbatches_never_change_the_update():
  """Of a decoder: one mean over pairs, and one over tokens."""
  losses = (dpo.DPO(beta=0.5), unreferenced.SFT())
  objective = unreferenced.Sum(losses, (1.0, 0.7))
  with jax.enable_x64(True):
    one, of_one = update(objective, 1)
    two, of_two = update(objective, 2)
  chex.assert_trees_all_close(one.trainable, two.trainable, atol=1e-12, rtol=0)
  assert of_one.keys() == of_two.keys() >= {"loss", "margin", "nll"}
  for name, x in of_one.items():
    got = of_two[name].compute()
    np.testing.assert_allclose(got, x.compute(), rtol=1e-11)
  assert one.frozen["policy"]["params"]["embedding"] is None
