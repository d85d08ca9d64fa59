"""Experts on devices of their own never change a step, in float64."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.models.config import Experts
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.packed import Packed
from llm_jax.objectives.routed import Routed
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from tests.models import experts_test
from tests.objectives import routed_test
from tests.sharding import laws_test, steps
from tests.sharding.laws_test import difference

CONFIG = dataclasses.replace(
  steps.CONFIG, mlp_dim=16, experts=Experts(num=8, per_token=2)
)
MESHES = [
  {"expert": 2},
  {"expert": 4, "fsdp": 2},
  {"expert": 8},
  {"data": 2, "expert": 2, "tensor": 2},
  {"fsdp": 2, "expert": 2, "tensor": 2},
  {"context": 2, "expert": 2},
]


def run(shape, **changes):
  objective = Routed(Packed(Causal(z_loss=1e-2)), 0.1, 1e-2)
  size = MeshShape(**({"data": 1} | shape))
  own = [getattr(size, f.name) for f in dataclasses.fields(size)]
  batch = routed_test.batch_of(packed=True)
  return steps.run(
    own,
    **({"config": CONFIG, "objective": objective, "batch": batch} | changes),
  )


@pytest.fixture(scope="module")
def one_device():
  with jax.enable_x64(True):
    return run({})


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_a_mesh_gives_one_devices_loss_and_gradients(shape, one_device):
  with jax.enable_x64(True):
    assert difference(run(shape), one_device) < 1e-10


def of_one_layer(shape, num):
  """What a mixture alone gives, and its gradients, on a mesh."""
  config = dataclasses.replace(
    experts_test.CONFIG, experts=Experts(num=num, per_token=2)
  )
  mesh = mesh_lib.make(MeshShape(**({"data": 1} | shape)))
  kernels = {"gate": "DF", "up": "DF", "down": "FD"}
  r = np.random.default_rng(0)
  sizes = {"D": config.embed_dim, "F": config.mlp_dim}
  params = {
    name: {"kernel": r.normal(size=(num, *(sizes[d] for d in dims)))}
    for name, dims in kernels.items()
  } | {"router": r.normal(size=(config.embed_dim, num))}
  x = r.normal(size=(4, 3, config.embed_dim))
  with jax.set_mesh(mesh), jax.enable_x64(True):
    f = experts_test.mixture(config)
    got = jax.jit(lambda x, p: experts_test.found(f, x, p))(x, params)
    return [np.asarray(x) for x in got]


def test_experts_that_devices_do_not_divide_are_copied():
  one, two = (of_one_layer(shape, 3) for shape in ({}, {"expert": 2}))
  assert experts_test.difference(one, two) < 1e-10


def test_mutant_experts_of_others_are_caught(monkeypatch):
  """Each device takes its own experts for the first."""
  one = of_one_layer({}, 4)
  assert experts_test.difference(of_one_layer({"expert": 2}, 4), one) < 1e-10
  at = jax.lax.axis_index
  monkeypatch.setattr(jax.lax, "axis_index", lambda names: 0 * at(names))
  assert experts_test.difference(of_one_layer({"expert": 2}, 4), one) > 0.1


def test_rows_that_devices_do_not_divide_are_copied():
  """As where fewer prompts are answered than there are devices."""
  one = of_one_layer({}, 8)
  for shape in ({"expert": 8}, {"fsdp": 2, "data": 2, "expert": 2}):
    assert experts_test.difference(of_one_layer(shape, 8), one) < 1e-10


def test_every_expert_is_on_one_device_of_the_axis():
  mesh = mesh_lib.make(MeshShape(1, expert=4, fsdp=2))
  with jax.set_mesh(mesh):
    _, state, _ = steps.plan(mesh, CONFIG)
  kernels = {
    path: x
    for path, x in trees.paths(state.trainable)
    if "mlp/" in path and path.endswith("kernel")
  }
  assert len(kernels) == 3
  for path, x in kernels.items():
    shards = [np.asarray(s.data).shape for s in x.addressable_shards]
    L, M, I, O = x.shape
    cut = (L, M // 4, I, O // 2) if "down" in path else (L, M // 4, I // 2, O)
    assert set(shards) == {cut}, path


_PLAN = """
    from tests.sharding import experts_test
    step, state, batch = steps.plan(mesh, experts_test.CONFIG)
"""


def test_no_tensor_is_gathered_whole_to_be_cut_anew():
  shapes = [{"data": 1, "fsdp": 2, "tensor": 2, "expert": 2}]
  code = laws_test._COMPILE.format(shapes=shapes, mutant=_PLAN.strip())
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=laws_test._environment(
      8, TF_CPP_MIN_LOG_LEVEL="0", JAX_ENABLE_COMPILATION_CACHE="false"
    ),
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "full rematerialization" not in done.stderr.lower(), done.stderr
