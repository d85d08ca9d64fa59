"""The mesh and the number of processes never change a step."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.objectives.causal import Causal
from llm_jax.sharding import mesh as mesh_lib
from tests import small
from tests.sharding import steps

ROOT = pathlib.Path(__file__).parents[2]


def difference(a, b):
  assert a.keys() == b.keys()
  return max(np.abs(a[k] - b[k]).max() for k in a)


@pytest.fixture(scope="module")
def one_device():
  with jax.enable_x64(True):
    return steps.run((1, 1, 1))


@pytest.mark.parametrize(
  "shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str
)
def test_a_mesh_gives_one_devices_loss_and_gradients(shape, one_device):
  with jax.enable_x64(True):
    assert difference(steps.run(shape), one_device) < 1e-12


def test_the_weights_really_are_cut():
  """Else the law above would hold of nothing."""
  mesh = mesh_lib.make(mesh_lib.MeshShape(2, 2, 2))
  with jax.set_mesh(mesh):
    _, state, batch = steps.plan(mesh)
  for path, x in trees.paths(state.trainable):
    assert not x.sharding.is_fully_replicated, path
  rows = {str(s.index) for s in batch["tokens_BT"].addressable_shards}
  assert len(rows) == 4


class _MeanOfMeans(Causal):
  """The mutant: each device weighs its own tokens, as plain data parallelism
  with a mean in the loss does."""

  def weigh(self, batch):
    per_row = batch["mask_BT"].sum(-1, keepdims=True)
    rows = batch["mask_BT"].shape[0]
    return batch | {"weight_BT": batch["mask_BT"] / per_row / rows}


def test_a_mean_of_the_devices_means_is_caught(one_device):
  with jax.enable_x64(True):
    mutant = steps.run((8, 1, 1), objective=_MeanOfMeans(z_loss=1e-2))
  assert difference(mutant, one_device) > 1e-3


def test_reading_anothers_rows_is_caught(one_device):
  """The mutant: processes' blocks of rows in another order than their seats;
  the loss is the same, so rows are marked by their own weights."""
  batch = small.causal_batch()
  with jax.enable_x64(True):
    wrong = {k: v.copy() for k, v in batch.items()}
    wrong["target_BT"] = np.roll(wrong["target_BT"], 1, axis=0)
    assert difference(steps.run((2, 2, 2), batch=wrong), one_device) > 1e-3


def _environment(devices, **more):
  flags = f"--xla_force_host_platform_device_count={devices}"
  path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  return os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path} | more


def test_two_processes_of_four_devices_are_one_of_eight(tmp_path, one_device):
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  command = [sys.executable, "-m", "tests.sharding.steps"]
  workers = [
    subprocess.Popen(
      [*command, str(tmp_path / "two.npz"), str(port), "2", str(i)],
      env=_environment(4),
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  said = [worker.communicate(timeout=120)[1] for worker in workers]
  assert [worker.returncode for worker in workers] == [0, 0], said
  with np.load(tmp_path / "two.npz") as two:
    for i in ("0/", "1/", "2/"):
      found = {k.removeprefix(i): x for k, x in two.items() if k.startswith(i)}
      assert difference(found, one_device) < 1e-12


_COMPILE = """
import jax
from llm_jax.sharding import mesh as mesh_lib
from tests.sharding import steps
for shape in {shapes}:
  mesh = mesh_lib.make(mesh_lib.MeshShape(**shape))
  with jax.set_mesh(mesh):
    step, state, batch = steps.plan(mesh)
    {mutant}
    step.lower(state, batch).compile()
"""
# A table cut along both of its dims is gathered whole at every lookup.
_MUTANT = """
    from llm_jax import axes
    axes.KEY["W"] = axes.Axis("", ("tensor",))
    axes.KEY["E"] = axes.Axis("", ("fsdp",))
    step, state, batch = steps.plan(mesh)
"""
_CUBE = {"data": 2, "fsdp": 2, "tensor": 2}
_STAGES = [
  {"data": 1, "fsdp": 2, "stage": 2, "tensor": 2},
  {"data": 1, "fsdp": 2, "stage": 2, "context": 2},
]


@pytest.mark.parametrize(
  ("shapes", "mutant"),
  [
    ([{"data": 1, "fsdp": 4, "tensor": 2}, _CUBE], ""),
    (_STAGES, ""),
    ([_CUBE], _MUTANT.strip()),
  ],
  ids=["three axes", "stages", "mutant"],
)
def test_no_tensor_is_gathered_whole_to_be_cut_anew(shapes, mutant):
  done = subprocess.run(
    [sys.executable, "-c", _COMPILE.format(shapes=shapes, mutant=mutant)],
    env=_environment(
      8, TF_CPP_MIN_LOG_LEVEL="0", JAX_ENABLE_COMPILATION_CACHE="false"
    ),
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  warned = "full rematerialization" in done.stderr.lower()
  assert warned == bool(mutant), done.stderr
