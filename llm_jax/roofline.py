"""How long a step must take: by what it computes, reads and sends."""

from collections.abc import Iterable, Mapping
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax import trees
from llm_jax.axes import KEY
from llm_jax.experiment import Experiment
from llm_jax.models import pipeline, sizing
from llm_jax.models.shape import Shape
from llm_jax.sharding.collectives import Collective
from llm_jax.sharding.topologies import Topology
from llm_jax.training.state import TrainState

ROWS = KEY["B"].activation  # mesh axes that cut the rows of a batch


class Times(NamedTuple):
  """Seconds of a step on one device, each as if it were all there is."""

  compute: float
  hbm: float
  ici: float
  dcn: float

  @property
  def least(self) -> float:
    """Where everything overlaps."""
    return max(self)

  @property
  def most(self) -> float:
    """Where nothing does, but that reading overlaps computing."""
    return max(self.compute, self.hbm) + self.ici + self.dcn

  @property
  def limit(self) -> str:
    """What takes longest."""
    return max(zip(self, self._fields, strict=True))[1]


class Sent(NamedTuple):
  """What a placement cannot do without: bytes a device receives in a step."""

  kind: str
  axes: tuple[str, ...]
  ici: float
  dcn: float
  why: str


def executed(shape: Shape, length: int) -> float:
  """Flops that a token really takes, what is computed anew included.

  Attention is counted causal. The backward pass makes the logits and the
  attention's probabilities again, and of each block what `remat` did not keep.
  """
  c, sizes = shape, sizing.parameters(shape)
  head = c.vocab_size * c.embed_dim
  causal = sizing.flops_per_token(shape, length).causal
  attention = causal - 6 * sizes.matmul
  anew = 2 * head + attention / 6
  if c.remat == "full":
    anew += 2 * (sizes.matmul - head) + attention / 3
  elif c.remat == "dots":
    anew += attention / 3
  return causal + anew


def trainings(experiment: Experiment, state: TrainState) -> float:
  """What a step computes of each token, in forwards and backwards of a model.

  A critic is trained like the policy; asking a reference is a forward, a third.
  """
  asks = _asks(experiment, state)
  return 1 + experiment.objective.needs_critic + asks / 3


def _asks(experiment: Experiment, state: TrainState) -> bool:
  """Whether a step asks a reference; who draws, asks it then."""
  there = "reference" in state.frozen or state.reference is not None
  return there and not experiment.draws


def minimum(
  experiment: Experiment,
  shape: Shape,
  state: TrainState,
  mesh: Mapping[str, int],
  across: Mapping[str, int],
) -> list[Sent]:
  """What must be sent, whatever the compiler does.

  Weights that `fsdp` cuts are gathered for each pass of each microbatch, their
  gradients scattered; gradients are summed over the copies once; with `tensor`
  the activations of a layer are summed four times, once more where a block is
  computed anew, and twice for a reference. Stages hand activations on, and
  gradients back; of rows of the embedding, of what the last stage says, and of
  both gradients, each has a part. Who shares experts gathers the tokens of all
  and scatters what became of them, and back, and of gathered experts sends
  nothing; who shares positions gathers keys and values, and scatters their
  gradients. What a block gathered is gathered once more where it is computed
  anew.

  Args:
    experiment: what is trained.
    shape: of its decoder.
    state: abstract, with shardings.
    mesh: axis -> devices.
    across: axis -> how many slices it lies over.
  """
  e, width = experiment, jnp.dtype(shape.dtype).itemsize
  passes = e.microbatches
  found: dict[tuple[str, tuple[str, ...], str], list[float]] = {}

  def add(kind: str, axes: tuple[str, ...], V: float, why: str) -> None:
    n = math.prod(mesh[a] for a in axes)
    if n == 1:
      return
    s = math.prod(across.get(a, 1) for a in axes)
    m, twice = n / s, 2 if kind == "all-reduce" else 1
    total = found.setdefault((kind, axes, why), [0.0, 0.0])
    if kind == "collective-permute":  # at a border of slices all of it crosses
      total[s > 1] += (n - 1) / n * V
      return
    total[0] += twice * (m - 1) / m * V
    total[1] += twice * (s - 1) / s * V / m

  for half, learns in ((state.trainable, True), (state.frozen, False)):
    for path, x in trees.paths(half):
      role = path.split("/")[0]
      held = _axes_of(x)
      cut = tuple(a for a in held if a in ROWS and a != "expert")
      parts = math.prod(mesh[a] for a in held if a not in cut)
      V = x.size * (width if x.ndim > 1 else x.dtype.itemsize) / parts
      reads, summed = 1 - e.draws if role == "reference" else 2, V
      name = path.rpartition("/")[2]
      if name == "embedding" and not shape.tied:
        reads = min(reads, 1)  # rows are looked up, and summed over parts
      elif name in ("head", "embedding"):  # gathered once, added up in float32
        reads, summed = min(reads, 1), x.size * max(4, width) / parts
      add("all-gather", cut, reads * passes * V, "weights")
      if learns:
        add("reduce-scatter", cut, passes * summed, "gradients")
        summers = (*ROWS, "context")
        rest = tuple(a for a in summers if a not in held and mesh[a] > 1)
        left = summed / math.prod(mesh[a] for a in cut)
        add("all-reduce", rest, left, "gradients")
  cuts = math.prod(mesh[a] for a in (*ROWS, "context"))
  tokens = e.batch_size * e.data.length / cuts
  V = (1 + e.objective.needs_critic) * tokens * shape.embed_dim * width
  add("collective-permute", ("stage",), 2 * V, "activations of stages")
  add("all-reduce", ("stage",), 4 * V, "activations of head and embedding")
  anew, all_layers = shape.remat != "none", V * shape.num_layers
  if shape.num_experts:
    there = mesh["expert"] * all_layers
    add("all-gather", ("expert",), (2 + anew) * there, "tokens of experts")
    add("reduce-scatter", ("expert",), 2 * there, "tokens of experts")
  both = shape.seen_width / mesh["tensor"] / shape.embed_dim
  there = mesh["context"] * all_layers * both
  add("all-gather", ("context",), (1 + anew) * there, "keys and values")
  add("reduce-scatter", ("context",), there, "gradients of keys and values")
  if mesh["tensor"] > 1:
    sums = 4 * shape.num_layers + (shape.remat == "full") * shape.num_layers
    add("all-reduce", ("tensor",), sums * V, "activations of layers")
    if _asks(e, state):
      asked = 2 * shape.num_layers * V
      add("all-reduce", ("tensor",), asked, "activations of the reference")
    add("all-reduce", ("tensor",), V, "activations of the head")
    add("all-reduce", ("tensor",), V, "rows of the embedding")
  return [Sent(k, a, v[0], v[1], w) for (k, a, w), v in found.items()]


def times(
  experiment: Experiment,
  shape: Shape,
  state: TrainState,
  mesh: Mapping[str, int],
  topology: Topology,
  sent: Iterable[Collective | Sent],
) -> Times:
  """Seconds of a step of training, from what is sent in it."""
  e, chip = experiment, topology.chip
  devices = math.prod(mesh.values())
  tokens = e.batch_size * e.data.length
  needed = sizing.flops_per_token(shape, e.data.length).causal
  anew = executed(shape, e.data.length) - needed
  learns = 1 + e.objective.needs_critic  # a reference computes nothing anew
  work = (needed * trainings(e, state) + anew * learns) * tokens
  stages = mesh["stage"]
  waits = pipeline.bubble(stages, shape.parts(stages))
  ici = dcn = 0.0
  for its in sent:
    speed = links(topology, mesh, its.axes)
    if its.kind == "collective-permute":
      speed = min(speed, 2 * chip.link)
    ici += its.ici / speed
    dcn += its.dcn / chip.dcn
  return Times(
    work / devices / chip.flops / (1 - waits),
    _moved(e, shape, state, mesh) / chip.hbm,
    ici,
    dcn,
  )


def links(
  topology: Topology, mesh: Mapping[str, int], axes: Iterable[str]
) -> float:
  """Bytes a second over the links that devices along some axes share.

  Axes lie along the dims of the torus, the last along the last; a dim that is
  whole and closed is a ring, over which both directions are used.
  """
  chip = topology.chip
  if not chip.dims:
    return chip.link
  left = [int(n) for n in topology.shape.split("x")]
  whole, taken = list(left), {}
  wanted = set(axes)
  for axis in reversed(list(mesh)):
    n, parts = mesh[axis], {}
    for d in reversed(range(len(left))):
      common = math.gcd(n, left[d])
      if common > 1:
        parts[d] = common
        n, left[d] = n // common, left[d] // common
    taken[axis] = parts
  along: dict[int, int] = {}
  for axis in wanted:
    for d, n in taken.get(axis, {}).items():
      along[d] = along.get(d, 1) * n
  used = sum(
    2 if n == whole[d] and topology.wrap[d] else 1 for d, n in along.items()
  )
  return chip.link * max(used, 1)


def _moved(
  experiment: Experiment,
  shape: Shape,
  state: TrainState,
  mesh: Mapping[str, int],
) -> float:
  """Bytes to and from memory in a step on one device, by analysis.

  Weights as they are multiplied, three times for each microbatch; what is
  trained with its gradient and its optimizer's state, read and written; of
  activations the operands and results of each map, forward and twice backward.
  """
  e, c, width = experiment, shape, jnp.dtype(shape.dtype).itemsize
  held = lambda tree: sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
  sizes, tensor = sizing.parameters(shape), mesh["tensor"]
  weights = 3 * e.microbatches * sizes.matmul * width / tensor
  update = 3 * held(state.trainable) + 2 * held(state.opt_state)
  cuts = math.prod(mesh[a] for a in (*ROWS, "context"))
  tokens = e.batch_size * e.data.length / cuts
  each = sizing.traffic(c, tensor) * width
  anew = {"none": 3.0, "dots": 3.5, "full": 4.0}[c.remat]
  logits = 4 * 4 * c.vocab_size / tensor
  return weights + update + tokens * (anew * each + logits)


def _axes_of(x: Any) -> tuple[str, ...]:
  """Mesh axes that cut an array, those of more than one device."""
  out: list[str] = []
  for entry in x.sharding.spec:
    names = entry if isinstance(entry, tuple) else (entry,)
    out += [n for n in names if n and x.sharding.mesh.shape[n] > 1]
  return tuple(out)
