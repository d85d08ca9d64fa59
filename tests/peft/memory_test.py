"""Bytes of a step by the compiler's own account."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from llm_jax import axes, state_plan, trees
from llm_jax import model as model_lib
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.dpo import DPO
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Full
from llm_jax.sharding import mesh as mesh_lib
from tests import command, small


def measured(method, layers=4, objective=None, reference=False):
  """(analysis, abstract state, bytes of the batch) of a step."""
  config = dataclasses.replace(
    small.CONFIG, embed_dim=256, mlp_dim=1024, num_layers=layers
  )
  objective = objective or Causal()
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    model=config,
    objective=objective,
    peft=method,
    mesh=mesh_lib.MeshShape(1),
  )
  mesh = mesh_lib.make(mesh_lib.MeshShape(1, 1, 1))
  with jax.set_mesh(mesh):
    model = model_lib.of_shape(config)
    plan = state_plan.make(experiment, model, mesh, reference=reference)
    ids = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    batch = {"tokens_BT": ids, "target_BT": ids}
    batch["mask_BT"] = jax.ShapeDtypeStruct(ids.shape, bool)
    if objective.needs_reference and not reference:
      batch["ref_logp_B"] = jax.ShapeDtypeStruct((2,), jnp.float32)
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


def of_dpo(method, reference):
  """Bytes of what trains, of its base, and of a step's arguments beside them.

  Those are the moments' and the reference's.
  """
  found, state, of_batch = measured(method, 1, DPO(), reference)
  trains, base = map(trees.num_bytes, (state.trainable, state.frozen["policy"]))
  rest = found.argument_size_in_bytes - of_batch - trains - base
  return trains, base, rest - trees.num_bytes(state.opt_state)


SLACK = 1024  # bytes: keys, counts


def test_a_reference_is_a_copy_of_what_trains():
  trains, _, more = of_dpo(Full(), reference=True)
  assert abs(more - trains) < SLACK
  assert abs(of_dpo(Full(), reference=False)[2]) < SLACK  # asked before


def test_beside_adapters_a_reference_is_nothing():
  _, base, more = of_dpo(LoRA(rank=2), reference=True)
  assert base > 100 * SLACK
  assert abs(more) < SLACK
  # The mutant: a base of its own.
  boxed = lambda params, suffixes, moves: jax.tree.map(
    lambda x, s: axes.box(x, s), params, suffixes
  )
  with mock.patch.object(state_plan, "_moving", boxed):
    _, _, mutant = of_dpo(LoRA(rank=2), reference=True)
  assert mutant > 0.9 * base
