"""What a run needs of machines that are not here: compiled, then reckoned."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from llm_jax import (
  abstract,
  checking,
  cuts,
  planning,
  roofline,
  state_plan,
)
from llm_jax import model as model_lib
from llm_jax.experiment import Experiment
from llm_jax.models import sizing
from llm_jax.reporting.progress import waiting
from llm_jax.roofline import Sent, Times
from llm_jax.sharding import collectives, compiling
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.collectives import Collective
from llm_jax.sharding.compiling import Compiled, DoesNotFit
from llm_jax.sharding.topologies import Topology


class Plan(NamedTuple):
  """What there is to say; bytes are of one device, times of one step."""

  experiment: Experiment
  topology: Topology
  mesh: dict[str, int]
  state: int
  by_analysis: float  # bytes
  step: Compiled | DoesNotFit | None  # None: nothing was compiled
  drawing: Compiled | DoesNotFit | None
  sent: Sequence[Collective]  # as compiled
  least: Sequence[Sent]
  times: Times
  flops: sizing.Flops  # of a token, to train one model
  trainings: float = 1.0  # of a model that a step is worth

  @property
  def fits(self) -> bool:
    """Whether a device has memory for it."""
    parts = (self.step, self.drawing)
    if any(isinstance(part, DoesNotFit) for part in parts):
      return False
    return self.needs <= self.topology.chip.memory

  @property
  def needs(self) -> float:
    """Bytes a device, as compiled, or else by analysis."""
    found = [its.total for its in self._compiled]
    if isinstance(self.step, DoesNotFit) and self.step.needs:
      return self.step.needs + self.state
    return max(found) if found else self.by_analysis

  @property
  def _compiled(self) -> list[Compiled]:
    both = (self.step, self.drawing)
    return [its for its in both if isinstance(its, Compiled)]

  @property
  def warnings(self) -> list[str]:
    """Of involuntary full rematerialisation."""
    return [line for its in self._compiled for line in its.warnings]

  @property
  def donated(self) -> bool:
    """Whether the new state takes the place of the old one's bytes."""
    step = self.step
    return isinstance(step, Compiled) and step.aliased >= 0.99 * self.state

  @property
  def limit(self) -> str:
    """What a step waits for, in words."""
    times, remat = self.times, self.experiment.model.remat
    if times.limit != "compute":
      return times.limit.upper()
    anew = f", and remat={remat}" if remat != "none" else ""
    share = (times.ici + times.dcn) / times.compute
    return f"computing{anew}" + (f"; sent {share:.0%} of it" * (share > 0.2))

  @property
  def tokens(self) -> int:
    """Of a step."""
    return self.experiment.batch_size * self.experiment.data.length

  def mfu(self, seconds: float, causal: bool = False) -> float:
    """Model flops utilisation of a step of so many seconds.

    The flops of all roles that the step computes count, once each.
    """
    flops = self.flops.causal if causal else self.flops.full
    flops *= self.trainings
    there = self.topology.chip.flops * math.prod(self.mesh.values())
    return flops * self.tokens / seconds / there


def make(
  experiment: Experiment, topology: Topology, compile_it: bool = True
) -> Plan:
  """Plans a run. ValueError where settings do not fit the machines.

  Args:
    experiment: what is run.
    topology: on which machines.
    compile_it: also compile the step, and the drawing where there is one; only
      for TPUs, others are reckoned by analysis alone.
  """
  e = experiment
  sizes = _sizes(e.mesh, topology)
  names = dict(zip(mesh_lib.NAMES, sizes, strict=True))
  cuts.check(e, names)
  compile_it = compile_it and bool(topology.compiler)
  checking.lie(e.mesh, sizes, topology.slices)
  mesh: Any = mesh_lib.described(sizes)
  if compile_it:
    mesh = mesh_lib.make(e.mesh, compiling.devices(topology))
  model = model_lib.of_shape(model_lib.expected_shape(e))
  its = state_plan.make(e, model, mesh, reference=e.asks_each_step)
  described = planning.describe(
    e, model.shape, its.abstract, names, topology.chip.kind
  )
  step = drawing = None
  sent: list[Collective] = []
  if compile_it:
    step, drawing = _compile(e, topology, its, model, mesh)
    if isinstance(step, Compiled) and step.text:
      slice_of = [getattr(d, "slice_index", 0) or 0 for d in mesh.devices.flat]
      sent = collectives.read(step.text, names, slice_of)
  least = roofline.minimum(
    e, model.shape, its.abstract, names, across(e.mesh, names, topology)
  )
  times = roofline.times(
    e, model.shape, its.abstract, names, topology, sent or least
  )
  return Plan(
    experiment=e,
    topology=topology,
    mesh=names,
    state=planning.bytes_of(its.abstract),
    by_analysis=described["bytes"],
    step=step,
    drawing=drawing,
    sent=sent,
    least=least,
    times=times,
    flops=sizing.flops_per_token(model.shape, e.data.length, e.source_length),
    trainings=roofline.trainings(e, its.abstract),
  )


def _compile(
  experiment: Experiment,
  topology: Topology,
  its: state_plan.Plan,
  model: model_lib.Model,
  mesh: Mesh,
) -> tuple[Compiled | DoesNotFit, Compiled | DoesNotFit | None]:
  """The step and the drawing, as they will run."""
  with jax.set_mesh(mesh):
    roles = its.abstract.roles
    rows = abstract.batch(experiment, model, roles, mesh)
    step = _one(f"compiling for {topology.name}", its.step, its.abstract, rows)
    if not experiment.draws or isinstance(step, DoesNotFit):
      return step, None
    draw = abstract.functions(experiment, model).draw
    asked = abstract.prompts(experiment, mesh)
    label = f"compiling the drawing for {topology.name}"
    return step, _one(label, draw, roles, asked, abstract.key(mesh))


def _one(label: str, function: Any, *arguments: Any) -> Compiled | DoesNotFit:
  with waiting(label):
    try:
      return compiling.compiled(function.lower(*arguments))
    except DoesNotFit as e:
      return e


def across(
  shape: mesh_lib.MeshShape, sizes: Mapping[str, int], topology: Topology
) -> dict[str, int]:
  """Between how many parts of each axis the network is slow."""
  if not topology.compiler:  # between hosts of GPUs
    return hosts_along(sizes, topology.chip.a_host)
  over = shape.slices.over(tuple(sizes.values()))
  return dict(zip(sizes, over, strict=True))


def hosts_along(mesh: Mapping[str, int], a_host: int) -> dict[str, int]:
  """Into how many hosts each axis is cut, the last ones within a host."""
  out, left = {}, a_host
  for axis in reversed(list(mesh)):
    inside = math.gcd(mesh[axis], left)
    out[axis], left = mesh[axis] // inside, left // inside
  return out


def _sizes(shape: mesh_lib.MeshShape, topology: Topology) -> tuple[int, ...]:
  """Of each axis; ValueError where they are not all devices there are."""
  total = topology.total
  where = f"{topology.name} has {total} devices"
  if topology.slices > 1:
    where = f"{topology.slices} slices of {topology.name} have {total} devices"
  return checking.fill(shape, total, where)
