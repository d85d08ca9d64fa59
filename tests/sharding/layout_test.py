"""Where devices sit: slices outermost, neighbours of a torus beside."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from llm_jax.sharding import layout
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape, Slices


@dataclasses.dataclass(frozen=True)
class Chip:
  """A TPU as a mesh sees it."""

  id: int
  coords: tuple[int, int, int]
  slice_index: int = 0
  device_kind: str = "TPU v5"
  core_on_chip: int = 0
  platform: str = "tpu"

  @property
  def process_index(self):  # hosts of 2 x 2 x 1
    x, y, z = self.coords
    return self.slice_index * 16 + x // 2 + y // 2 * 2 + z * 4


def pod(sides=(4, 4, 4), slices=1):
  x, y, z = (range(s) for s in sides)
  return [
    Chip(i, (a, b, c), s)
    for s in range(slices)
    for i, (c, b, a) in enumerate(itertools.product(z, y, x))
  ]


def apart(a, b, sides):
  """Steps between two chips of a slice, round the torus."""
  return sum(
    min(abs(p - q), n - abs(p - q))
    for p, q, n in zip(a.coords, b.coords, sides, strict=True)
  )


@pytest.mark.parametrize(
  "shape",
  [
    MeshShape(data=1, fsdp=64),
    MeshShape(data=1, fsdp=16, tensor=4),
    MeshShape(data=1, fsdp=32, tensor=2),
    MeshShape(data=1, fsdp=8, expert=8),
    MeshShape(data=2, fsdp=4, stage=2, context=2, tensor=2),
  ],
  ids=str,
)
def test_every_shape_has_its_place_in_a_torus(shape):
  mesh = mesh_lib.make(shape, pod())
  assert len({chip.id for chip in mesh.devices.flat}) == 64
  if shape.tensor > 1:  # those that speak most are one step apart
    for ring in mesh.devices.reshape(-1, shape.tensor):
      pairs = itertools.pairwise(ring)
      assert {apart(a, b, (4, 4, 4)) for a, b in pairs} == {1}


def test_chips_as_they_are_numbered_are_caught():
  """The mutant: a ring of four by number has a step of many."""
  ring = pod()[2:6]
  assert max(apart(a, b, (4, 4, 4)) for a, b in itertools.pairwise(ring)) > 1


@pytest.mark.parametrize(
  ("shape", "axis", "over"),
  [
    (MeshShape(data=2, fsdp=16, tensor=4, slices=Slices(data=2)), 1, 2),
    (MeshShape(data=4, fsdp=16, tensor=2, slices=Slices(data=2)), 1, 2),
    (MeshShape(data=1, fsdp=-1, slices=Slices(fsdp=2)), 2, 2),
    (MeshShape(data=-1, stage=2, slices=Slices(stage=2)), 0, 2),
  ],
  ids=str,
)
def test_slices_lie_along_the_axis_they_are_told_to(shape, axis, over):
  mesh = mesh_lib.make(shape, pod(slices=2))
  index = np.empty(mesh.devices.shape, int)
  for at in np.ndindex(*mesh.devices.shape):
    index[at] = mesh.devices[at].slice_index
  parts = np.split(index, over, axis)
  for i, part in enumerate(parts):
    assert set(part.flat) == {i}


def test_slices_along_two_axes():
  shape = MeshShape(data=4, fsdp=4, slices=Slices(data=2, fsdp=2))
  mesh = mesh_lib.make(shape, pod((2, 2, 1), slices=4))
  found = {
    at[1:3]: mesh.devices[at].slice_index
    for at in np.ndindex(*mesh.devices.shape)
  }
  assert found == {(d, f): d // 2 * 2 + f // 2 for d, f in found}


def test_elsewhere_slices_are_equal_blocks():
  shape = MeshShape(data=2, fsdp=2, tensor=2, slices=Slices(fsdp=2))
  mesh = mesh_lib.make(shape)
  devices = jax.devices()
  for f in range(2):
    block = mesh.devices[0, :, f].flatten().tolist()
    assert sorted(block, key=lambda d: d.id) == devices[4 * f : 4 * f + 4]
  assert layout.slices(devices, 2) == [devices[:4], devices[4:]]


def test_without_slices_the_order_is_as_it_was():
  mesh = mesh_lib.make(MeshShape(data=2, fsdp=2, tensor=2))
  assert mesh.devices.flatten().tolist() == jax.devices()


def test_a_part_of_a_pod_is_used_in_its_order():
  mesh = mesh_lib.make(MeshShape(data=3), pod())
  assert [chip.id for chip in mesh.devices.flat] == [0, 1, 2]


@pytest.mark.parametrize(
  ("shape", "says"),
  [
    (MeshShape(), "--mesh.slices: 1 in all, these devices are 2;"),
    (MeshShape(), "as in --mesh.slices.data=2"),
    (MeshShape(slices=Slices(data=4)), "--mesh.slices: 4 in all"),
    (
      MeshShape(slices=Slices(fsdp=2)),
      "--mesh.slices.fsdp=2: does not divide the 1 of --mesh.fsdp",
    ),
    (
      MeshShape(data=-1, stage=4, slices=Slices(stage=3)),
      "--mesh.slices.stage=3: does not divide the 4 of --mesh.stage",
    ),
    (MeshShape(data=96, slices=Slices(data=2)), "slices of different sizes"),
  ],
)
def test_what_devices_are_not_is_told_with_its_flag(shape, says):
  with pytest.raises(ValueError) as e:
    mesh_lib.make(shape, pod(slices=2))
  assert says in str(e.value) and "\n" not in str(e.value)
