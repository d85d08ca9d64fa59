"""What is read off a program's text is what its author would count by hand."""

import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from llm_jax.sharding import collectives, hlo

MESH = {"data": 2, "fsdp": 4, "tensor": 2}
# A layer loop of 3 turns whose trip count only its condition tells, an
# asynchronous gather in a fusion's parts, a scatter in a fusion, a permutation.
TEXT = pathlib.Path(__file__).with_name("collectives.hlo").read_text()


def by_kind(text=TEXT, mesh=MESH, slice_of=()):
  return {c.kind: c for c in collectives.read(text, mesh, slice_of)}


def test_each_kind_is_counted_as_by_hand():
  found = by_kind()
  assert len(collectives.read(TEXT, MESH)) == 4  # none of a group of one
  gather = found["all-gather"]  # 256 bytes over 4, in each of 3 turns
  assert (gather.size, gather.runs, gather.axes) == (4, 3, ("fsdp",))
  assert gather.ici == 3 * 256 * 3 / 4 and gather.dcn == 0
  scatter = found["reduce-scatter"]
  assert (scatter.runs, scatter.axes) == (1, ("fsdp",))
  assert scatter.payload == 1024 and scatter.ici == 1024 * 3 / 4
  reduce = found["all-reduce"]
  assert reduce.axes == ("tensor",) and reduce.ici == 3 * 2 * 40 / 2
  move = found["collective-permute"]
  assert move.axes == ("data",) and move.ici == 20


def test_what_goes_between_slices_is_told_apart():
  found = by_kind(slice_of=[i // 8 for i in range(16)])
  assert found["collective-permute"].dcn == 20
  assert found["collective-permute"].ici == 0
  assert found["all-gather"].dcn == 0
  whole = TEXT.replace("[8,2]<=[16]", "[1,16]<=[16]")
  reduce = by_kind(whole, slice_of=[i // 8 for i in range(16)])["all-reduce"]
  # Within a slice 2 (7/8) of it, between them 2 (1/2) of an eighth.
  assert reduce.ici == 3 * 2 * 7 / 8 * 40
  assert reduce.dcn == 3 * 2 * 1 / 2 * 40 / 8


@pytest.mark.parametrize(
  ("how", "target", "kind", "dcn"),
  [
    ("ALL_REDUCE", '"{1,2}x{0:7}"', "all-reduce", 2 / 2 * 40),
    ("ALL_GATHER", '"{1:2}x{0:7}"', "all-gather", 1 / 2 * 40),
    ("REDUCE_SCATTER", '"{1,2}x{0:7}"', "reduce-scatter", 40),
    ("ALL_REDUCE", '"{1:3,5}x{0:7}"', "all-reduce", 2 * 3 / 4 * 40),
    (
      "ONE_TO_ONE",
      "{{100000->200000},{100001->200001}}",
      "collective-permute",
      40,
    ),
  ],
)
def test_what_a_tpu_receives_through_its_host(how, target, kind, dcn):
  """As libtpu writes it; what is received once each turn, and never on ICI."""
  line = (
    "%recv.1 = (f32[10]{0:T(128)}, u32[], token[]) recv(%after-all.1),"
    " channel_id=90, is_host_transfer=true, frontend_attributes={"
    '_xla_host_transfer_handler_name="xla_megascale_runtime",'
    f"_xla_megascale_target={target},"
    f'_xla_megascale_transfer_type="{how}"}}'
  )
  turn = next(x for x in TEXT.splitlines() if "%all-reduce.3 =" in x)
  text = TEXT.replace(turn, f"{turn}\n  {line}")
  slice_of = [i // 8 for i in range(16)]
  before = collectives.read(TEXT, MESH, slice_of)
  (new,) = (
    c for c in collectives.read(text, MESH, slice_of) if c not in before
  )
  assert (new.kind, new.runs, new.axes) == (kind, 3, ("data",))
  assert new.ici == 0 and new.dcn == pytest.approx(3 * dcn)
  # Any other is none between devices.
  other = text.replace("_xla_megascale_transfer", "_xla_other_transfer")
  assert collectives.read(other, MESH, slice_of) == before


@pytest.mark.parametrize(
  ("written", "group"),
  [
    ("{{0,2,4,6},{1,3,5,7},{8,10,12,14},{9,11,13,15}}", (0, 2, 4, 6)),
    ("[4,4]<=[2,4,2]T(0,2,1)", (0, 2, 4, 6)),
    ("[8,2]<=[16]", (0, 1)),
    ("[2,8]<=[8,2]T(1,0)", tuple(range(0, 16, 2))),
    ("mesh['a'=2,'b'=4,'c'=2] {'b'}", (0, 2, 4, 6)),
    ("mesh['a'=2,'b'=8] {'a'}", (0, 8)),
    ("mesh['a'=2,'b'=8] {'b':(1)4}", (0, 2, 4, 6)),
    ("mesh['a'=2,'b'=8] {'b':(4)2}", (0, 1)),
    ("mesh['a'=16] {'a'}", tuple(range(16))),
    ("{}", tuple(range(16))),
  ],
)
def test_groups_in_every_notation(written, group):
  groups = collectives._groups(f", replica_groups={written}, x=1", 16)
  assert groups[0] == group
  assert sorted(i for g in groups for i in g) == list(range(16))


def mutant_without_trips(monkeypatch):
  monkeypatch.setattr(hlo.Module, "turns", lambda self, loop, name: 1)


def mutant_parts_counted_each(monkeypatch):
  monkeypatch.setattr(
    collectives, "_key", lambda name, it, kind: (name, it.name)
  )


def mutant_scatter_as_reduce(monkeypatch):
  monkeypatch.setattr(collectives, "_is_scatter", lambda name: False)


def mutant_whole_tuple_of_a_start(monkeypatch):
  monkeypatch.setattr(collectives, "_payload", lambda it, kind: sum(it.sizes))


@pytest.mark.parametrize(
  "mutant",
  [
    mutant_without_trips,
    mutant_parts_counted_each,
    mutant_scatter_as_reduce,
    mutant_whole_tuple_of_a_start,
  ],
)
def test_mutants_are_caught(mutant, monkeypatch):
  mutant(monkeypatch)
  with pytest.raises((AssertionError, KeyError)):
    test_each_kind_is_counted_as_by_hand()


def test_a_program_of_known_collectives():
  """A matrix gathered, and a sum scattered, in a loop of 5 turns."""
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
  D = 64

  def local(w_D, x):
    def turn(x, _):
      # Not the same in each turn, or the compiler gathers it before the loop.
      w_DD = jax.lax.all_gather(w_D * x[0, 0], "fsdp", tiled=True)
      y = x @ w_DD
      y = jax.lax.psum_scatter(y, "fsdp", scatter_dimension=0, tiled=True)
      y = jnp.tile(y, (4, 1)) + jax.lax.psum(x, "data")
      return y, None

    return jax.lax.scan(turn, x, None, length=5)[0]

  P = PartitionSpec
  f = jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(P("fsdp"), P()),
      out_specs=P("data"),
      check_vma=False,
    )
  )
  x = jax.ShapeDtypeStruct((8, D), jnp.float32)
  w = jax.ShapeDtypeStruct(
    (D, D), jnp.float32, sharding=NamedSharding(mesh, P("fsdp"))
  )
  text = f.lower(w, x).compile().as_text()
  found = {
    (c.kind, c.axes): c for c in collectives.read(text, dict(mesh.shape))
  }
  sizes = {key: (c.runs, c.ici) for key, c in found.items()}
  part = 8 * D * 4
  assert sizes == {
    ("all-gather", ("fsdp",)): (5, 5 * 3 / 4 * D * D * 4),
    ("reduce-scatter", ("fsdp",)): (5, 5 * 3 / 4 * part),
    ("all-reduce", ("data",)): (5, 5 * 2 / 2 * part),
  }
  np.testing.assert_equal(len(found), 3)
