"""The mesh: sizes that fit, and who holds which rows."""

import itertools

import jax
import numpy as np
import pytest

from llm_jax.data import batches
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape


@pytest.mark.parametrize(
  ("given", "want"),
  [
    ((-1, 1, 1), (8, 1, 1)),
    ((-1, 2, 2), (2, 2, 2)),
    ((2, -1, 1), (2, 4, 1)),
    ((1, 2, -1), (1, 2, 4)),
    ((8, -1, 1), (8, 1, 1)),
    ((2, 1, 2), (2, 1, 2)),  # fewer than there are
  ],
)
def test_minus_one_is_all_that_is_left(given, want):
  data, fsdp, tensor = want
  assert MeshShape(*given).sizes(8) == (1, data, fsdp, 1, 1, tensor)
  mesh = mesh_lib.make(MeshShape(*given))
  assert tuple(mesh.shape.values()) == (1, data, fsdp, 1, 1, tensor)
  assert tuple(mesh.shape) == mesh_lib.NAMES
  assert len(set(mesh.devices.flat)) == mesh.size


@pytest.mark.parametrize("name", mesh_lib.NAMES)
def test_every_axis_has_its_setting(name):
  shape = MeshShape(**({"data": 2} | {name: 4}))
  found = dict(mesh_lib.make(shape).shape)
  assert found[name] == 4 and found["data"] == (4 if name == "data" else 2)
  shape = MeshShape(**({"data": 2} | {name: -1}))
  assert dict(mesh_lib.make(shape).shape)[name] == (8 if name == "data" else 4)


def test_the_default_is_every_device_a_copy():
  found = dict(mesh_lib.make(MeshShape()).shape)
  assert found == dict.fromkeys(mesh_lib.NAMES, 1) | {"data": 8}
  one = mesh_lib.make(MeshShape(), jax.devices()[3:4])
  assert list(one.devices.flat) == [jax.devices()[3]]


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ((-1, -1, 1), "-1 at most once"),
    ((0, 1, 1), "sizes are 1 or more"),
    ((-2, 1, 1), "sizes are 1 or more"),
    ((2, 8, 1), "needs 16 devices, this machine has 8"),
    ((-1, 16, 1), "needs 16 devices, this machine has 8"),
    ((-1, 3, 1), "8 devices are not divisible by 3"),
  ],
)
def test_what_does_not_fit_is_refused_with_its_flags(given, says):
  with pytest.raises(ValueError) as e:
    MeshShape(*given).sizes(8)
  message = str(e.value)
  assert says in message and "\n" not in message
  for name, size in zip(("data", "fsdp", "tensor"), given, strict=True):
    assert (f"--mesh.{name}={size}" in message) == (size != 1)


def test_a_batch_that_cannot_be_cut_is_refused():
  mesh = mesh_lib.make(MeshShape(2, 2, 2))
  with pytest.raises(ValueError, match=r"--batch_size=6: .* data 2 x fsdp 2"):
    mesh_lib.share(mesh, 6)


class Process:
  """A placement as one process of several sees it: only its own devices."""

  def __init__(self, sharding, devices):
    self._sharding, self._devices = sharding, devices

  def addressable_devices_indices_map(self, shape):
    whole = self._sharding.devices_indices_map(shape)
    return {d: index for d, index in whole.items() if d in self._devices}


def shares(monkeypatch, shape, batch_size, processes):
  """(share, rows held) of each process with an equal block of devices."""
  mesh = mesh_lib.make(shape)
  sharding = mesh_lib.batch_sharding(mesh)
  per = 8 // processes
  for i in range(processes):
    mine = Process(sharding, jax.devices()[i * per : (i + 1) * per])
    monkeypatch.setattr(mesh_lib, "batch_sharding", lambda mesh, p=mine: p)
    rows = set()
    for (cut,) in mine.addressable_devices_indices_map((batch_size,)).values():
      rows |= set(range(batch_size)[cut])
    yield mesh_lib.share(mesh, batch_size), rows
  monkeypatch.undo()


SHAPES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (4, 1, 2), (1, 2, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_shares_are_the_rows_that_devices_hold(monkeypatch, shape, processes):
  held = set()
  for (index, count), rows in shares(
    monkeypatch, MeshShape(*shape), 16, processes
  ):
    size = 16 // count
    assert rows == set(range(index * size, (index + 1) * size))
    held |= rows
  assert held == set(range(16))


def test_rows_by_process_number_are_caught():
  """The mutant: block = process number, though tensor spans two processes."""
  with pytest.MonkeyPatch.context() as patch:
    found = list(shares(patch, MeshShape(2, 1, 4), 16, 4))
  assert [share for share, _ in found] == [(0, 2), (0, 2), (1, 2), (1, 2)]
  for i, (_, rows) in enumerate(found):
    assert rows != set(range(i * 4, i * 4 + 4))


def test_a_process_left_out_of_the_mesh_is_told(monkeypatch):
  with pytest.raises(ValueError, match="no device in a mesh of 4"):
    list(shares(monkeypatch, MeshShape(4, 1, 1), 16, 2))


@pytest.mark.parametrize(
  ("shape", "mine", "want"),
  [
    ((8, 1, 1), slice(0, 8, 2), ((0, 2, 4, 6), 8)),
    ((8, 1, 1), slice(1, 3), ((1, 2), 8)),
    ((4, 1, 2), slice(2, 4), (1, 4)),
    ((2, 2, 2), slice(0, 8, 4), ((0, 2), 4)),
  ],
)
def test_rows_that_are_not_one_block_are_told_one_by_one(
  monkeypatch, shape, mine, want
):
  mesh = mesh_lib.make(MeshShape(*shape))
  held = Process(mesh_lib.batch_sharding(mesh), jax.devices()[mine])
  monkeypatch.setattr(mesh_lib, "batch_sharding", lambda mesh: held)
  share = mesh_lib.share(mesh, 16)
  assert share == want
  rows = set()
  for (cut,) in held.addressable_devices_indices_map((16,)).values():
    rows |= set(range(16)[cut])
  assert list(batches.of_block(1, 16, share)) == [16 + i for i in sorted(rows)]
  pairs = [
    row for i in batches.of_block(0, 16, share, 2) for row in (2 * i, 2 * i + 1)
  ]
  assert pairs == sorted(rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_placed_batch_is_cut_over_data_and_fsdp_only(shape):
  mesh = mesh_lib.make(MeshShape(*shape))
  batch = {
    "tokens_BT": np.arange(48).reshape(16, 3),
    "weight_B": np.arange(16.0, dtype=np.float32),
  }
  placed = mesh_lib.place(batch, mesh)
  cuts = shape[0] * shape[1]
  for name, x in batch.items():
    np.testing.assert_array_equal(placed[name], x)
    starts = {}
    for shard in placed[name].addressable_shards:
      assert len(shard.data) == 16 // cuts
      starts.setdefault(shard.index[0].start or 0, []).append(shard.device)
    assert len(starts) == cuts
    assert {len(copies) for copies in starts.values()} == {shape[2]}
  # Neighbours along tensor hold the same rows.
  at = {s.device: s.index for s in placed["weight_B"].addressable_shards}
  for row in mesh.devices.reshape(-1, shape[2]):
    assert all(at[a] == at[b] for a, b in itertools.pairwise(row))
