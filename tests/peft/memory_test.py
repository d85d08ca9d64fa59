"""Bytes of a step by the compiler's own account."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from llm_jax import model as model_lib
from llm_jax import trees, weights
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Full
from llm_jax.sharding import mesh as mesh_lib
from tests import command, small


def measured(method):
  """(analysis, abstract state, bytes of the batch) of a step."""
  config = dataclasses.replace(
    small.CONFIG, embed_dim=256, mlp_dim=1024, num_layers=4
  )
  experiment = dataclasses.replace(
    command.EXPERIMENT, model=config, peft=method, mesh=mesh_lib.MeshShape(1)
  )
  mesh = mesh_lib.make(mesh_lib.MeshShape(1, 1, 1))
  with jax.set_mesh(mesh):
    plan = weights.plan(experiment, model_lib.of_shape(config), mesh)
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    batch = {"tokens_BT": ids, "target_BT": ids}
    batch["mask_BT"] = jax.ShapeDtypeStruct(ids.shape, bool)
    compiled = plan.step.lower(plan.abstract, batch).compile()
  return compiled.memory_analysis(), plan.abstract, 9 * 2 * 16


@pytest.fixture(scope="module")
def both():
  return measured(Full()), measured(LoRA(rank=2))


def test_the_base_is_held_once(both):
  for found, state, of_batch in both:
    held = sum(
      trees.num_bytes(x) for x in (state.trainable, state.frozen)
    ) + trees.num_bytes(state.opt_state)
    assert abs(found.argument_size_in_bytes - held - of_batch) < 4096
    # All but the batch is given back in its own place.
    assert abs(found.alias_size_in_bytes - held) < 4096


def test_gradients_and_optimizer_are_of_what_trains(both):
  (full, full_state, _), (lora, state, _) = both
  base = trees.num_bytes(full_state.trainable)
  assert trees.num_bytes(state.frozen) >= base
  moments = trees.num_bytes(state.opt_state)
  assert moments < 2.1 * trees.num_bytes(state.trainable) < 0.1 * base
  # In full, a gradient of each weight exists at once; here of none.
  assert full.temp_size_in_bytes > base
  assert full.temp_size_in_bytes - lora.temp_size_in_bytes > 0.8 * base
