"""What the compiler is told, by kind of device: one table, with reasons.

None of these changes what is computed, only when, and with how much of fast
memory. Left out on purpose, as they were seen to change training elsewhere:
all-reduce on SparseCores (`xla_tpu_enable_sparse_core_collective_offload_*`:
losses that are not right, comments in axlearn's table), and the partitioned
generator of random bits (`xla_tpu_spmd_rng_bit_generator_unsafe`: draws that
depend on the mesh).

Sources: [axlearn] github.com/apple/axlearn, axlearn/common/compiler_options.py;
[maxtext] github.com/AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py;
[toolbox] github.com/NVIDIA/JAX-Toolbox, docs/GPU_performance.md and
docs/frameworks/maxtext; none was measured here, where there is neither a TPU
nor a machine of several GPUs.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import Mesh

V4, V5E, V5P = "TPU v4", "TPU v5 lite", "TPU v5"
V6E, V7X = "TPU v6 lite", "TPU7x"
HOPPER = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
Where = Literal["always", "devices", "slices"]  # with more than one of them


class Switch(NamedTuple):
  """One option of the compiler."""

  kinds: tuple[str, ...]  # `device_kind`s
  name: str
  value: str
  why: str
  source: str
  where: Where = "always"


_LATENCY = "collectives run beside what does not wait for them"
_LAYER = "gathers of a layer's weights as one: a threshold above its bytes"
_NEXT = "the next layer's collective starts while this layer computes"
_FUSED = "a gather in steps, each beside the product that reads it"
_DCN = "gradients cross the slow network while others are computed"
_VMEM = "bigger tiles of fast memory a fusion, for products that fill it"

# fmt: off
TABLE = (
  Switch((V4, V5E, V5P, V6E, V7X), "xla_tpu_enable_latency_hiding_scheduler",
         "true", _LATENCY, "axlearn"),
  Switch((V4,), "xla_enable_async_all_gather",
         "true", "as later kinds do by themselves", "axlearn"),
  Switch((V4,), "xla_enable_async_collective_permute",
         "true", "as later kinds do by themselves", "axlearn"),
  Switch((V5P,), "xla_tpu_scoped_vmem_limit_kib", "65472", _VMEM, "axlearn"),
  Switch((V6E,), "xla_tpu_scoped_vmem_limit_kib",
         "98304", _VMEM, "axlearn, maxtext"),
  Switch((V7X,), "xla_tpu_scoped_vmem_limit_kib", "65536", _VMEM, "axlearn"),
  Switch((V6E,), "xla_tpu_enable_async_collective_fusion",
         "true", _FUSED, "axlearn, maxtext"),
  Switch((V6E,), "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
         "true", _FUSED, "axlearn, maxtext"),
  Switch((V6E,), "xla_tpu_enable_async_collective_fusion_multiple_steps",
         "true", _FUSED, "axlearn, maxtext"),
  Switch((V6E,), "xla_tpu_overlap_compute_collective_tc",
         "true", _FUSED, "axlearn, maxtext"),
  Switch((V4, V5E, V5P, V6E, V7X),
         "xla_tpu_enable_data_parallel_all_reduce_opt",
         "true", _DCN, "axlearn, maxtext", "slices"),
  Switch((V4, V5E, V5P, V6E, V7X),
         "xla_tpu_data_parallel_opt_different_sized_ops",
         "true", _DCN, "axlearn, maxtext", "slices"),
  Switch(HOPPER, "xla_gpu_enable_latency_hiding_scheduler",
         "true", _LATENCY, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_enable_pipelined_all_gather",
         "true", _NEXT, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_enable_pipelined_reduce_scatter",
         "true", _NEXT, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_enable_pipelined_all_reduce",
         "true", _NEXT, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_enable_while_loop_double_buffering",
         "true", _NEXT, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_all_gather_combine_threshold_bytes",
         "1073741824", _LAYER, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_reduce_scatter_combine_threshold_bytes",
         "134217728", _LAYER, "toolbox", "devices"),
  Switch(HOPPER, "xla_gpu_all_reduce_combine_threshold_bytes",
         "1073741824", _LAYER, "toolbox", "devices"),
)
# fmt: on


def options(
  kind: str, devices: int, slices: int = 1, given: Sequence[str] = ()
) -> dict[str, str | bool]:
  """Name -> value, for `compiler_options` of `jax.jit`.

  Args:
    kind: `device_kind`; of others the table says nothing.
    devices: how many the program runs on.
    slices: that they lie over.
    given: "name=value" of a user's own, which win; "name=" takes one away.

  Raises:
    ValueError: one that is given has not that form.
  """
  many = {"always": True, "devices": devices > 1, "slices": slices > 1}
  found = {s.name: s.value for s in TABLE if kind in s.kinds and many[s.where]}
  for one in given:
    name, is_there, value = one.strip().partition("=")
    if not (name and is_there):
      raise ValueError(f"--compiler={one}: must be name=value, or name=")
    found[name.removeprefix("--")] = value
  words: dict[str, str | bool] = {"true": True, "false": False}
  return {n: words.get(v.lower(), v) for n, v in found.items() if v}


def of_mesh(
  mesh: Any, slices: int, given: Sequence[str] = ()
) -> dict[str, str | bool] | None:
  """`options` for programs of a mesh; without devices, those given alone."""
  if not isinstance(mesh, Mesh):
    return options("", 1, given=given) or None
  kind = mesh.devices.flat[0].device_kind
  return options(kind, mesh.size, slices, given) or None


def check(given: Sequence[str]) -> None:
  """ValueError where the compiler of this machine does not know an option."""
  if not given:
    return
  its = options("", 1, given=given)
  try:
    jax.jit(lambda: 0, compiler_options=its).lower().compile()
  except (jax.errors.JaxRuntimeError, ValueError) as e:
    line = str(e).splitlines()[0]
    raise ValueError(f"--compiler={','.join(given)}: {line}") from e
