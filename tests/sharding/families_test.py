"""On a mesh, too, blocks of every family are one device's."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax.sharding.mesh import MeshShape
from tests import small
from tests.models.encoder_test import ENCODERS
from tests.sharding import steps

_CUT = {"num_heads": 8, "num_kv_heads": 8, "head_dim": 4, "mlp_dim": 32}
SHAPES = {
  name: dataclasses.replace(its, **_CUT)
  for name, its in {
    "gemma": dataclasses.replace(
      small.SHAPES["gemma"], num_layers=4, unroll=1, full_layers=(1, 2)
    ),
    "olmo": small.SHAPES["olmo"],
    "relative": small.SHAPES["relative"],
    "modernbert": ENCODERS["modernbert"],
  }.items()
}
MESHES = [
  {"data": 2, "fsdp": 2, "tensor": 2},
  {"stage": 2, "tensor": 2},
  {"context": 2},
]
# Soft-capped attention has no kernel of cut positions.
CASES = [
  (shape, mesh)
  for shape in SHAPES
  for mesh in MESHES
  if not (shape == "gemma" and "context" in mesh)
]


@pytest.fixture(scope="module")
def alone():
  with jax.enable_x64(True):
    return {
      name: steps.run(MeshShape(1, 1, 1), config=its)
      for name, its in SHAPES.items()
    }


@pytest.mark.parametrize(("shape", "mesh"), CASES, ids=str)
def test_a_mesh_changes_nothing(shape, mesh, alone):
  with jax.enable_x64(True):
    got = steps.run(MeshShape(**{"data": 1, **mesh}), config=SHAPES[shape])
  want = alone[shape]
  assert got.keys() == want.keys()
  assert max(np.abs(got[k] - want[k]).max() for k in got) < 1e-11


def test_soft_caps_of_cut_positions_are_refused():
  with pytest.raises(ValueError, match="mesh.context=2: not with"):
    steps.run(MeshShape(data=1, context=2), config=SHAPES["gemma"])
