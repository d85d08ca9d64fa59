"""What the compiler is told: known to it, justified, and changing no number."""

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
import numpy as np
import pytest

from llm_jax.sharding import compiling, switches, topologies
from llm_jax.sharding import mesh as mesh_lib
from tests.compiling import needs_libtpu

KINDS = {kind for its in switches.TABLE for kind in its.kinds}


def test_each_switch_is_of_a_kind_we_know_and_has_a_reason():
  known = {chip.kind for chip in topologies.CHIPS.values()}
  assert known >= KINDS
  for its in switches.TABLE:
    assert its.why
    for source in its.source.split(", "):
      assert f"[{source}]" in switches.__doc__
    assert its.name.startswith("xla_") and its.value == its.value.lower()
  for kind in KINDS:
    names = [its.name for its in switches.TABLE if kind in its.kinds]
    assert len(names) == len(set(names))


def test_what_is_told_depends_on_the_device_and_on_what_there_is_to_wait_for():
  one = switches.options("NVIDIA H200", 1)
  eight = switches.options("NVIDIA H200", 8)
  assert one == {} and eight["xla_gpu_enable_latency_hiding_scheduler"] is True
  slice_, slices = (switches.options(switches.V5P, 8, n) for n in (1, 2))
  assert slice_.items() < slices.items()
  assert switches.options("cpu", 8, 2) == {}
  mesh = mesh_lib.make(mesh_lib.MeshShape())
  assert switches.of_mesh(mesh, 1) is None
  assert switches.of_mesh(mesh, 1, ("xla_a=1",)) == {"xla_a": "1"}
  assert switches.of_mesh(AbstractMesh((8,), ("data",)), 1) is None


def test_ones_own_win():
  name = "xla_tpu_scoped_vmem_limit_kib"
  of = lambda *given: switches.options(switches.V6E, 4, 1, given)
  assert of()[name] == "98304"
  assert of(f"{name}=1024")[name] == "1024"
  assert name not in of(f"--{name}=")
  assert of("xla_new=False")["xla_new"] is False


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ("xla_nonsense=1", "No such compile option: 'xla_nonsense'"),
    ("xla_cpu_enable_fast_math=perhaps", "not a valid bool"),
    ("xla_cpu_enable_fast_math", "must be name=value"),
    ("=1", "must be name=value"),
  ],
)
def test_what_the_compiler_does_not_know_is_told(given, says):
  with pytest.raises(ValueError) as e:
    switches.check((given,))
  assert says in str(e.value) and f"--compiler={given}" in str(e.value)
  assert "\n" not in str(e.value)
  switches.check(())


def test_switches_of_gpus_are_known():
  """Their names and values; what they do is for a machine that has some."""
  its = switches.options("NVIDIA H200", 8)
  switches.check([f"{name}={value}" for name, value in its.items()])


def test_a_switch_changes_no_number():
  x = np.random.default_rng(0).normal(size=(8, 8))
  f = lambda x: jnp.tanh(x @ x).sum(0)
  its = switches.options("cpu", 1, 1, ("xla_cpu_enable_fast_math=false",))
  np.testing.assert_array_equal(
    jax.jit(f)(x), jax.jit(f, compiler_options=its)(x)
  )


@needs_libtpu
@pytest.mark.parametrize("name", ["v4-8", "v5e-4", "v5p-8", "v6e-4", "tpu7x-8"])
def test_switches_of_tpus_are_known(name, monkeypatch):
  """The compiler for TPUs takes each, and refuses one that there is not."""
  monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  devices = compiling.devices(topologies.of(name, 2))
  shape = mesh_lib.MeshShape(data=-1, slices=mesh_lib.Slices(data=2))
  mesh = mesh_lib.make(shape, devices)
  its = switches.of_mesh(mesh, shape.slices.count)
  x = jax.ShapeDtypeStruct(
    (256, 256), jnp.bfloat16, sharding=mesh_lib.batch_sharding(mesh)
  )
  lowered = jax.jit(lambda x: (x @ x.T).sum(0)).lower(x)
  assert its
  lowered.compile(compiler_options=its)
  with pytest.raises(ValueError, match="No such compile option: 'nonsense'"):
    compiling.compiled(lowered, its | {"nonsense": True})
