"""Recurrent models: the mesh never changes a step, or is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax import cuts, trees
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from tests import command, small
from tests.sharding import steps

CELLS = pytest.mark.parametrize("cell", small.RECURRENT)


def run(shape, cell):
  batch = small.causal_batch()
  segment_BT = np.where(batch["mask_BT"], 1, 0)
  segment_BT[:, 4:] *= 2
  batch["segment_BT"] = segment_BT.astype(np.int32)
  with jax.enable_x64(True):
    return steps.run(shape, config=small.RECURRENT[cell], batch=batch)


@pytest.fixture(scope="module")
def one_device():
  return {cell: run((1, 1, 1), cell) for cell in small.RECURRENT}


@CELLS
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=str)
def test_a_mesh_gives_one_devices_loss_and_gradients(shape, cell, one_device):
  found, want = run(shape, cell), one_device[cell]
  assert found.keys() == want.keys()
  assert max(np.abs(found[k] - want[k]).max() for k in want) < 1e-12


def test_mutant_another_cell_is_caught(one_device):
  a, b = (one_device[cell]["loss"] for cell in ("lstm", "gru"))
  assert np.abs(a - b).max() > 1e-3


def test_the_weights_really_are_cut():
  mesh = mesh_lib.make(MeshShape(2, 2, 2))
  with jax.set_mesh(mesh):
    _, state, _ = steps.plan(mesh, config=small.RECURRENT["lstm"])
  for path, x in trees.paths(state.trainable):
    assert not x.sharding.is_fully_replicated, path


@pytest.mark.parametrize("axis", ["stage", "context", "expert"])
def test_other_axes_are_refused(axis):
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    model=RecurrentConfig(),
    mesh=MeshShape(**{axis: 2}),
  )
  with pytest.raises(ValueError) as e:
    cuts.share(experiment, mesh_lib.make(experiment.mesh))
  said = f"--mesh.{axis}=2: recurrent models are cut by data, fsdp, tensor"
  assert str(e.value) == said
