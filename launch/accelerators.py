"""TPU slices as Google's tools know them.

Types and hosts: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, and
`vms_per_slice` of xpk 1.16's core/system_characteristics.py. Software:
docs.cloud.google.com/tpu/docs/runtimes.
"""

from typing import NamedTuple

from llm_jax.sharding import topologies

# "The Cloud TPU API is not supported on TPU7x and later": GKE has them.
_RUNTIMES = {
  "v4": "tpu-ubuntu2204-base",
  "v5e": "v2-alpha-tpuv5-lite",
  "v5p": "v2-alpha-tpuv5",
  "v6e": "v2-alpha-tpuv6e",
}
_KINDS = {"v5e": "v5litepod"}


class Accelerator(NamedTuple):
  """A slice."""

  kind: str  # --accelerator-type and --tpu-type: v5litepod-16
  hosts: int
  devices: int
  runtime: str | None  # software version of its VMs; None = has none


def of(name: str) -> Accelerator:
  """What a name means; ValueError with the nearest names if nothing."""
  known = topologies.of(name)
  family = known.family
  if not known.chip.dims:
    raise ValueError(f"--topology={name}: is no TPU; slurm has GPUs")
  count = int(name.rpartition("-")[2])
  kind = f"{_KINDS.get(family, family)}-{count}"
  return Accelerator(kind, known.hosts, known.devices, _RUNTIMES.get(family))
