"""Which mesh, microbatches and remat may be better on given machines."""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from llm_jax import cuts, planning, roofline, state_plan, topology_plan
from llm_jax import model as model_lib
from llm_jax.experiment import Experiment
from llm_jax.models.shape import Shape
from llm_jax.roofline import Sent, Times
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape, Slices
from llm_jax.sharding.topologies import Topology
from llm_jax.topology_plan import Plan

_REMAT: tuple[Literal["none", "dots", "full"], ...] = ("none", "dots", "full")
_TENSOR = (1, 2, 4, 8)
_TILE = 8  # rows that a TPU's memory holds together
_ROOM = 0.95  # of a device's memory that analysis may fill


class Candidate(NamedTuple):
  """Settings, and what analysis says of them."""

  experiment: Experiment
  bytes: float  # a device
  times: Times

  @property
  def flags(self) -> str:
    """To paste behind a command."""
    e = self.experiment
    sizes = {n: getattr(e.mesh, n) for n in mesh_lib.NAMES}
    found = [f"--mesh.{n}={s}" for n, s in sizes.items() if s != 1]
    if "data" not in {n for n, s in sizes.items() if s != 1}:
      found.insert(0, "--mesh.data=1")
    if e.mesh.slices.data > 1:
      found.append(f"--mesh.slices.data={e.mesh.slices.data}")
    found.append(f"--microbatches={e.microbatches}")
    found.append(f"--model.remat={e.model.remat}")
    return " ".join(found)


def candidates(experiment: Experiment, topology: Topology) -> list[Candidate]:
  """Those that fit by analysis, the fastest first.

  Fast is what takes least if nothing sent overlaps with computing; of the same
  speed, what has fewer microbatches and needs less memory. Where nothing fits,
  what needs least is alone.
  """
  found: list[Candidate] = []
  tight: list[Candidate] = []
  for shape in _meshes(experiment, topology):
    for one in _on(dataclasses.replace(experiment, mesh=shape), topology):
      fits = one.bytes <= _ROOM * topology.chip.memory
      (found if fits else tight).append(one)
  if not found:
    return sorted(tight, key=lambda c: c.bytes)[:1]
  return sorted(found, key=_rank)


def _rank(one: Candidate) -> tuple[float, int, float]:
  """Times within a hundredth are the same, however short a step is."""
  alike = round(100 * math.log(one.times.most))
  return alike, one.experiment.microbatches, one.bytes


def best(
  experiment: Experiment,
  topology: Topology,
  compile_it: bool,
  tries: int = 3,
  until: int = 2,
) -> list[tuple[Candidate, Plan]]:
  """The first of `candidates`, the fastest first.

  Args:
    experiment: what is run.
    topology: where.
    compile_it: compile them; else all is by analysis.
    tries: how many, at most.
    until: so many that were compiled fit.
  """
  out: list[tuple[Candidate, Plan]] = []
  too_much = math.inf  # by analysis, of what did not fit as compiled
  for one in _unlike(candidates(experiment, topology)):
    if one.bytes > 0.97 * too_much:
      continue
    plan = topology_plan.make(one.experiment, topology, compile_it)
    out.append((one, plan))
    if not plan.fits:
      too_much = min(too_much, one.bytes)
    if len(out) == tries:
      break
    if compile_it and sum(its.fits for _, its in out) == until:
      break
  return sorted(out, key=lambda x: (not x[1].fits, x[1].times.most))


def _unlike(found: list[Candidate]) -> list[Candidate]:
  """The best of each way of keeping activations, then the others."""
  seen: set[tuple] = set()
  first: list[Candidate] = []
  rest: list[Candidate] = []
  for one in found:
    kind = (one.experiment.model.remat, one.experiment.mesh)
    (rest if kind in seen else first).append(one)
    seen.add(kind)
  return [*first, *rest]


def _meshes(experiment: Experiment, topology: Topology) -> Iterator[MeshShape]:
  """Copies between slices, weights and heads shared within."""
  given, slices = experiment.mesh, topology.slices
  model = experiment.model
  fixed = given.stage * given.expert * given.context
  for tensor in _TENSOR:
    if topology.devices % (tensor * max(fixed, 1)):
      continue
    if any(size % tensor for size in model.tensor_dims):
      continue
    rest = topology.devices // tensor // max(fixed, 1)
    for copies in (1, 2, 4, 8, rest):
      if rest % copies or (copies == rest and copies > 8 and tensor > 1):
        continue
      yield dataclasses.replace(
        given,
        data=copies * slices,
        fsdp=rest // copies,
        tensor=tensor,
        slices=Slices(data=slices),
      )
      if rest == copies:
        break


def _on(experiment: Experiment, topology: Topology) -> Iterator[Candidate]:
  """Each remat and number of microbatches on one mesh."""
  e = experiment
  sizes = e.mesh.sizes(topology.total)
  names = dict(zip(mesh_lib.NAMES, sizes, strict=True))
  mesh: Any = mesh_lib.described(sizes)
  model = model_lib.of_shape(model_lib.expected_shape(e))
  state = None
  across = topology_plan.across(e.mesh, names, topology)
  rows = e.batch_size // mesh_lib.row_cuts(names)
  for parts in (n for n in range(1, rows + 1) if rows % n == 0):
    cut = dataclasses.replace(e, microbatches=parts)
    try:
      cuts.check(cut, names)
    except ValueError:
      continue
    if state is None:  # the same for all of a mesh
      state = state_plan.make(
        e, model, mesh, reference=e.asks_each_step
      ).abstract
    for remat in _REMAT:
      shape = dataclasses.replace(model.shape, remat=remat)
      one = dataclasses.replace(
        cut, model=dataclasses.replace(e.model, remat=remat)
      )
      said = planning.describe(one, shape, state, names, topology.chip.kind)
      least = roofline.minimum(one, shape, state, names, across)
      twice = _summed_whole(one, topology, names["fsdp"])
      built = [_as_built(its, parts, twice) for its in least]
      times = roofline.times(one, shape, state, names, topology, built)
      yield Candidate(one, said["bytes"] + _gathered(shape, names), times)


def _gathered(shape: Shape, mesh: Mapping[str, int]) -> int:
  """Bytes of weights that a device has whole for a while.

  Those of a block's feed-forward with their gradients, and of the table and the
  head, whose gradient is added up in float32.
  """
  width = jnp.dtype(shape.dtype).itemsize
  table = shape.vocab_size * shape.embed_dim // mesh["tensor"]
  block = 3 * shape.embed_dim * shape.tensor_dims[-1] * 4
  return block + table * (4 + 2 * width)


def _as_built(sent: Sent, microbatches: int, twice: Collection[str]) -> Sent:
  """What the step sends; sums over copies are made in each microbatch.

  Args:
    sent: what it must.
    microbatches: of the step.
    twice: kinds of which libtpu sends all to all, see `_summed_whole`.
  """
  times = 1
  if (sent.kind, sent.why) == ("all-reduce", "gradients"):
    times = microbatches
  elif sent.kind in twice and "fsdp" in sent.axes:
    times = 2
  return sent._replace(ici=sent.ici * times, dcn=sent.dcn * times)


def _summed_whole(
  experiment: Experiment, topology: Topology, fsdp: int
) -> tuple[str, ...]:
  """What becomes sums of all of it, seen with libtpu 0.0.42 (`PLANS.md`).

  Weights of less than a tile a device are gathered so, and gradients that a
  whole closed torus shares are so before they are cut.
  """
  if experiment.model.embed_dim < _TILE * fsdp:
    return "all-gather", "reduce-scatter"
  if fsdp == topology.devices and any(topology.wrap):
    return ("reduce-scatter",)
  return ()


def advice(found: list[tuple[Candidate, Plan]]) -> list[str]:
  """Lines for people: what was found, and flags to paste."""
  out = ["", "found by analysis" + ", then compiled" * bool(found[0][1].step)]
  for one, plan in found:
    share = " to ".join(
      f"{plan.mfu(s, causal=True):.0%}"
      for s in (plan.times.most, plan.times.least)
    )
    fits = "fits" if plan.fits else "does not fit"
    needs = planning.human(plan.needs)
    out.append(f"  {fits}, {needs} a device, MFU {share}: {one.flags}")
  return [*out, "", f"paste: {found[0][0].flags}"]
