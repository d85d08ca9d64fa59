"""TPU slices by name: what Google calls them, and how many hosts they have.

Types and hosts: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, and
`vms_per_slice` of xpk 1.16's core/system_characteristics.py. Software:
docs.cloud.google.com/tpu/docs/runtimes.
"""

import difflib
import re
from typing import NamedTuple

_FLAT = (1, 4, 8, 16, 32, 64, 128, 256)
_CUBES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Accelerator(NamedTuple):
  """A slice as Google's tools know it."""

  kind: str  # --accelerator-type and --tpu-type: v5litepod-16
  hosts: int
  runtime: str | None  # software version of its VMs; None = has none


class _Generation(NamedTuple):
  kind: str
  counts: tuple[int, ...]  # what N of NAME-N may be
  a_host: int  # what N counts, of one host of several
  alone: int  # the largest N of one host
  runtime: str | None


# N counts chips of v5e and v6e, and cores, two a chip, of the others.
_GENERATIONS = {
  "v4": _Generation("v4", _CUBES, 8, 8, "tpu-ubuntu2204-base"),
  "v5e": _Generation("v5litepod", _FLAT, 4, 8, "v2-alpha-tpuv5-lite"),
  "v5p": _Generation("v5p", _CUBES, 8, 8, "v2-alpha-tpuv5"),
  "v6e": _Generation("v6e", _FLAT, 4, 8, "v2-alpha-tpuv6e"),
  # "The Cloud TPU API is not supported on TPU7x": GKE has them.
  "tpu7x": _Generation("tpu7x", _CUBES, 8, 8, None),
}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}


def of(name: str) -> Accelerator:
  """What a name means; ValueError with the nearest names if nothing."""
  found = re.fullmatch(r"([a-z0-9]+)-(\d+)", name.lower())
  known = found and _GENERATIONS.get(_ALIASES.get(found[1], found[1]))
  if not found or not known or int(found[2]) not in known.counts:
    raise ValueError(_unknown(name))
  count = int(found[2])
  hosts = 1 if count <= known.alone else count // known.a_host
  return Accelerator(f"{known.kind}-{count}", hosts, known.runtime)


def _unknown(name: str) -> str:
  family, _, count = name.lower().partition("-")
  family = _ALIASES.get(family, family)
  if family in _GENERATIONS:
    sizes = ", ".join(str(n) for n in _GENERATIONS[family].counts)
    return f"--topology={name}: {family}-N has N of {sizes}"
  names = [f"{f}-{n}" for f, g in _GENERATIONS.items() for n in g.counts]
  near = difflib.get_close_matches(name.lower(), names, 3, 0.5)
  hint = f"did you mean {' or '.join(near)}? " if near else ""
  return (
    f"--topology={name}: unknown; {hint}known are"
    f" {', '.join(f'{f}-N' for f in _GENERATIONS)}"
  )
