"""Machines by the names that users give them: v5p-128, v6e-256, h100-64.

The number counts what the vendor counts: chips of v5e and v6e, TensorCores,
two a chip, of v4, v5p and tpu7x, GPUs of the others.
"""

import difflib
import math
import re
from typing import NamedTuple

GIB = 2**30
_NAME = re.compile(r"^([a-z0-9]*[a-z][a-z0-9]*?)-(\d+)$")


class Chip(NamedTuple):
  """What one device of a kind can do; rates are a second, of one device.

  A device is what JAX counts: a chip, but for tpu7x, of whose chips each of
  the two cores is one.
  """

  kind: str  # JAX's `device_kind`
  flops: float  # dense bfloat16
  memory: float  # bytes that a program may use
  hbm: float  # bytes
  link: float  # bytes over one link to a neighbour, in one direction
  dims: int  # of the torus; 0 = all devices of a host see each other
  dcn: float  # bytes over the network between slices, or between hosts
  a_host: int  # devices


# flops, hbm and links: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x},
# whose ICI bandwidth of a chip counts both directions of all its links: v5e
# 400 GB/s over 4, v5p 1200 over 6, v6e 800 over 4, tpu7x 1200 over 6. v4's
# links: arXiv:2304.01433, table 4 (50 GB/s each). Network a chip: v5p 50
# Gbit/s and tpu7x 100 there, v5e and v6e 6.4 and 25.6 Tbit/s of a pod of 256,
# v4 as v5p. Memory: what the compiler says it may use when it runs out.
# H100 and H200: the data sheets of the SXM modules; a network card of 400
# Gbit/s a GPU, as in DGX H100; memory as the driver tells it.
CHIPS = {
  "v4": Chip("TPU v4", 275e12, 30.75 * GIB, 1.2e12, 50e9, 3, 6.25e9, 4),
  "v5e": Chip(
    "TPU v5 lite", 197e12, 15.75 * GIB, 0.819e12, 50e9, 2, 3.125e9, 4
  ),
  "v5p": Chip("TPU v5", 459e12, 95.74 * GIB, 2.765e12, 100e9, 3, 6.25e9, 4),
  "v6e": Chip(
    "TPU v6 lite", 918e12, 31.25 * GIB, 1.638e12, 100e9, 2, 12.5e9, 4
  ),
  "tpu7x": Chip("TPU7x", 1153.5e12, 94.75 * GIB, 3.69e12, 50e9, 3, 6.25e9, 8),
  "h100": Chip(
    "NVIDIA H100 80GB HBM3", 989e12, 79.1 * GIB, 3.35e12, 450e9, 0, 50e9, 8
  ),
  "h200": Chip("NVIDIA H200", 989e12, 139.8 * GIB, 4.8e12, 450e9, 0, 50e9, 8),
}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x"}
_FLAT = {
  n: f
  for n, f in zip(
    (1, 4, 8, 16, 32, 64, 128, 256),
    ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    strict=True,
  )
}
_CUBES = {
  4: "2x2x1",
  8: "2x2x2",
  16: "2x2x4",
  32: "2x4x4",
  64: "4x4x4",
  128: "4x4x8",
  256: "4x8x8",
  512: "8x8x8",
  1024: "8x8x16",
  2048: "8x16x16",
}


MOST_SLICES = 1024


class Topology(NamedTuple):
  """Slices of one kind, as the compiler and the roofline know them."""

  name: str  # as given
  family: str  # key of `CHIPS`
  chip: Chip
  devices: int  # of one slice
  slices: int
  shape: str  # "4x4x8"; "" where there is no torus
  compiler: str  # what libtpu calls it, "v5:4x4x8"; "" where it has no name
  config: str  # chip_config_name
  host: tuple[int, int, int]  # chips_per_host_bounds
  wrap: tuple[bool, bool, bool]  # whether each dim of the torus is closed

  @property
  def total(self) -> int:
    """Devices of all slices."""
    return self.devices * self.slices

  @property
  def hosts(self) -> int:
    """Of all slices; eight chips of v5e or v6e may be one host's."""
    if self.chip.dims == 2 and self.devices <= 8:
      return self.slices
    return self.slices * max(1, self.devices // self.chip.a_host)

  @property
  def links(self) -> float:
    """Bytes a second that a device can send over all its links at once."""
    return self.chip.link * (2 * self.chip.dims or 1)


def of(name: str, slices: int = 1) -> Topology:
  """What a name means; ValueError with the nearest names if nothing."""
  found = _NAME.match(name.lower())
  family = found and _ALIASES.get(found[1], found[1])
  if not found or family not in CHIPS:
    raise ValueError(_unknown(name, None))
  assert family is not None
  count, chip = int(found[2]), CHIPS[family]
  if not 1 <= slices <= MOST_SLICES:
    raise ValueError(
      f"--slices={slices}: must be 1 or more, and at most {MOST_SLICES}"
    )
  if count not in _counts(family):
    raise ValueError(_unknown(name, family))
  if not chip.dims:
    if slices > 1:
      raise ValueError(
        f"--slices={slices}: {name} has no slices; give the number of GPUs of"
        " all hosts"
      )
    none = (False,) * 3
    return Topology(name, family, chip, count, 1, "", "", "", (1, 1, 1), none)
  two_cores = chip.dims == 3
  shape = _CUBES[count // 2] if two_cores else _FLAT[count]
  dims = [int(n) for n in shape.split("x")]
  wrap = tuple(n % 4 == 0 and math.prod(dims) >= 64 for n in dims)
  if not two_cores:  # only a pod's whole row or column is a ring
    wrap = (*(n == 16 for n in dims), False)
  called = {"v5p": "v5"}.get(family, family)
  megacore = family in ("v4", "v5p")
  return Topology(
    name=name,
    family=family,
    chip=chip,
    devices=count // 2 if megacore else count,
    slices=slices,
    shape=shape,
    compiler=f"{called}:{shape}",
    config="megacore" if megacore else "default",
    host=(1, 1, 1) if count == 1 else (2, 2, 1),
    wrap=(wrap[0], wrap[1], wrap[2]),
  )


def names() -> list[str]:
  """All names, smallest first within a kind."""
  return [f"{f}-{n}" for f in CHIPS for n in _counts(f)]


def _counts(family: str) -> list[int]:
  """Numbers that may follow the name of a kind."""
  dims = CHIPS[family].dims
  if not dims:
    return [1, 2, 4, 8, *(8 * 2**i for i in range(1, 11))]
  return list(_FLAT) if dims == 2 else [2 * n for n in _CUBES]


def _unknown(name: str, family: str | None) -> str:
  if family:
    sizes = ", ".join(str(n) for n in _counts(family))
    return f"--topology={name}: unknown size; {family} has {sizes}"
  near = difflib.get_close_matches(name.lower(), names(), 3, 0.5)
  hint = f"; did you mean {' or '.join(near)}?" if near else ""
  kinds = ", ".join(f"{f}-N" for f in (*CHIPS, "v5litepod"))
  return f"--topology={name}: unknown{hint} There are {kinds}".replace(
    "unknown There", "unknown; there"
  )
