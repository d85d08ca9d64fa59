"""One mesh for everything, and who holds which rows of a batch."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
import numpy as np

from llm_jax import axes
from llm_jax.config import field
from llm_jax.contracts import Share
from llm_jax.sharding import layout

# From the axis whose devices may lie furthest apart to the one whose devices
# speak most, which are neighbours.
NAMES = ("stage", "data", "fsdp", "expert", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class Slices:
  """How many slices lie along an axis; between them the network is slow."""

  data: int = field(1, "slices that copies of the model lie over", low=1)
  fsdp: int = field(1, "slices that devices sharing weights lie over", low=1)
  stage: int = field(1, "slices that layers lie over", low=1)

  @property
  def count(self) -> int:
    """Of all slices."""
    return self.data * self.fsdp * self.stage

  def over(self, sizes: Sequence[int]) -> tuple[int, ...]:
    """Slices along each of `NAMES`. ValueError where an axis is not cut so."""
    found = tuple(getattr(self, name, 1) for name in NAMES)
    for name, size, n in zip(NAMES, sizes, found, strict=True):
      if size % n:
        raise ValueError(
          f"--mesh.slices.{name}={n}: does not divide the {size} of"
          f" --mesh.{name}"
        )
    return found


@dataclasses.dataclass(frozen=True)
class MeshShape:
  """Devices along each axis; their product is the number of devices used."""

  data: int = field(-1, "copies of the model; -1 = all that is left", low=-1)
  fsdp: int = field(1, "devices that share each weight; -1 = the rest", low=-1)
  tensor: int = field(
    1, "devices that share heads, feed-forward and vocabulary", low=-1
  )
  context: int = field(
    1, "devices that share the positions of each row", low=-1
  )
  expert: int = field(
    1, "devices that share experts; elsewhere they share rows", low=-1
  )
  stage: int = field(1, "devices that share layers, in turn", low=-1)
  slices: Slices = Slices()

  def sizes(self, num_devices: int) -> tuple[int, ...]:
    """A size for each of `NAMES`, -1 filled. ValueError where it cannot be."""
    given = tuple(getattr(self, name) for name in NAMES)
    asked = " ".join(
      f"--mesh.{n}={s}" for n, s in zip(NAMES, given, strict=True) if s != 1
    )
    if 0 in given or min(given) < -1 or given.count(-1) > 1:
      raise ValueError(f"{asked}: sizes are 1 or more, and -1 at most once")
    rest = math.prod(s for s in given if s != -1)
    if rest > num_devices:
      raise ValueError(
        f"{asked}: needs {rest} devices, this machine has {num_devices}"
      )
    if -1 in given and num_devices % rest:
      raise ValueError(
        f"{asked}: {num_devices} devices are not divisible by {rest}"
      )
    return tuple(s if s != -1 else num_devices // rest for s in given)


def make(shape: MeshShape, devices: Any = None) -> Mesh:
  """The mesh over the first of `devices` (default: all) that it needs."""
  devices = jax.devices() if devices is None else devices
  sizes = shape.sizes(len(devices))
  over = shape.slices.over(sizes)
  placed = layout.arrange(devices[: math.prod(sizes)], sizes, over)
  return Mesh(placed, NAMES, axis_types=(AxisType.Auto,) * len(NAMES))


def described(sizes: tuple[int, ...]) -> Any:
  """A mesh of such sizes, of devices that need not be there."""
  kinds = (AxisType.Auto,) * len(NAMES)
  return AbstractMesh(sizes, NAMES, axis_types=kinds)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows over the axes that cut B; every other dim is whole."""
  return NamedSharding(mesh, axes.spec("B", "activation"))


def row_cuts(sizes: Mapping[str, int]) -> int:
  """Into how many parts the rows of a batch are cut: data x fsdp x expert."""
  return math.prod(sizes[name] for name in axes.KEY["B"].activation)


def say_row_cuts(sizes: Mapping[str, int]) -> str:
  """ "data 2 x fsdp 2 x expert 1", for errors."""
  return " x ".join(f"{n} {sizes[n]}" for n in axes.KEY["B"].activation)


def share(mesh: Mesh, batch_size: int) -> Share:
  """The rows of a batch that this process's devices hold.

  Processes that only differ along other axes hold, and read, the same rows. A
  pod's torus may leave a process rows that are not beside each other.
  """
  cuts = row_cuts(mesh.shape)
  if batch_size % cuts:
    raise ValueError(
      f"--batch_size={batch_size}: not divisible by the mesh,"
      f" {say_row_cuts(mesh.shape)}"
    )
  held, count = _held(mesh), cuts
  if not held:
    raise ValueError(
      f"--mesh: process {jax.process_index()} has no device in a mesh of"
      f" {mesh.size}; use all devices of all processes"
    )
  first, n = held[0], len(held)
  if held == tuple(range(first, first + n)) and first % n == cuts % n == 0:
    return first // n, count // n
  return held, count


def _held(mesh: Mesh) -> tuple[int, ...]:
  """Which of the equal parts of a batch this process's devices hold."""
  cuts = row_cuts(mesh.shape)
  mine = batch_sharding(mesh).addressable_devices_indices_map((cuts,))
  return tuple(
    sorted({index[0].start or 0 for index in mine.values() if index})
  )


def place(batch: Any, mesh: Mesh) -> Any:
  """This process's rows -> arrays of the global batch, cut over the mesh."""
  if jax.process_count() == 1:
    return jax.device_put(batch, batch_sharding(mesh))
  held, cuts = _held(mesh), row_cuts(mesh.shape)

  def put(x: Any) -> jax.Array:
    rows, x = len(x) // len(held), np.asarray(x)

    def part(index: Any) -> np.ndarray:
      first = held.index((index[0].start or 0) // rows) * rows
      return x[first : first + rows]

    shape = (rows * cuts, *x.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)

  return jax.tree.map(put, batch)


def place_whole(batch: Mapping[str, Any], mesh: Mesh) -> Any:
  """A batch that every process has whole -> arrays cut over the mesh."""
  for size in {len(x) for x in batch.values()}:
    share(mesh, size)  # or say what is wrong
  if jax.process_count() == 1:
    return place(batch, mesh)

  def put(x: Any) -> jax.Array:
    x = np.asarray(x)
    sharding = batch_sharding(mesh)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return {name: put(x) for name, x in batch.items()}
