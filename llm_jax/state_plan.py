"""The state of a run before it exists: which weights move, and where they lie.

Nothing is computed yet: shapes with shardings, and the functions that make the
state and step it.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh

from llm_jax import axes, keys, trees
from llm_jax.contracts import Batch, Forward, Objective
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.models import together
from llm_jax.objectives.mixed import Mixed
from llm_jax.objectives.packed import Packed
from llm_jax.objectives.routed import Routed
from llm_jax.peft import hold, merge
from llm_jax.peft.sites import Base
from llm_jax.sharding import switches
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.state import TrainState

Encode = Callable[[str], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Plan:
  """The state before it exists, and the functions on it.

  `init` and `frozen` take the root key and a base's params, which they use up;
  None makes a new base from the key.
  """

  abstract: TrainState  # shapes with shardings
  base: Any  # the base's params, likewise
  suffixes: Any  # of the base's params
  init: Callable[[jax.Array, Any], TrainState]
  frozen: Callable[[jax.Array, Any], Any]
  step: Callable[[TrainState, Batch], tuple]
  learning_rate: Callable[[int], Any]

  @property
  def saved(self) -> TrainState:
    """What of the state a checkpoint holds."""
    return saved(self.abstract)


def is_output(path: str) -> bool:
  """Whether a param is of what says numbers; a base may be without it."""
  return path.startswith("output_")


def forward(model: Model, temperature: float = 1.0) -> Forward:
  """Every role is the one decoder, with weights of its own."""
  score = together.packing(
    functools.partial(model.score, temperature=temperature)
  )
  return dict.fromkeys(("policy", "reference", "value"), score)


def saved(state: TrainState) -> TrainState:
  """The state without its frozen half."""
  return dataclasses.replace(state, frozen={})


def make(
  experiment: Experiment,
  model: Model,
  mesh: Mesh,
  encode: Encode = lambda text: [0],
  reference: bool = False,
) -> Plan:
  """Shapes, placement and functions of training, nothing computed yet.

  Args:
    experiment: what to train.
    model: its decoder.
    mesh: where.
    encode: text -> ids, for soft prompts.
    reference: keep the role "reference", the policy as it begins; refreshed
      while training if the experiment says so.
  """
  peft, key = experiment.peft, jax.random.key(experiment.seed)
  refreshed = reference and experiment.refresh.every > 0
  boxed = jax.eval_shape(model.init, key)["params"]
  suffixes, base = axes.suffixes(boxed), axes.unbox(boxed)

  def moves(path: str) -> bool | int:
    role, _, path = path.partition("/")
    if role == "value":
      return True
    if role != "policy" or path.startswith("quantised/"):
      return False
    # What the base does not know must be learned, whatever the method.
    return is_output(path.removeprefix("params/")) or peft.is_trainable(path)

  def roles(key: jax.Array, params: Any) -> Any:
    params = params or {}
    if params.keys() != suffixes.keys():  # no base, or one without a head
      params = {**axes.unbox(model.init(key))["params"], **params}
    kept, quantised = hold.hold(
      params, suffixes, lambda p: moves(f"policy/{p}"), experiment.frozen
    )
    held = hold.seen(params, kept, quantised)
    adapters = peft.add(
      Base(held, suffixes, keys.stream(key, "adapters"), encode)
    )
    parts = {"params": kept, "adapters": adapters, "quantised": quantised}
    out = {"policy": {name: part for name, part in parts.items() if part}}
    if reference and not refreshed:
      out["reference"] = {"params": _moving(params, suffixes, moves)}
    if experiment.objective.needs_critic:
      out["value"] = {"params": _moving(params, suffixes, lambda path: True)}
    return out

  trainable, frozen = jax.eval_shape(
    lambda key, params: trees.split(roles(key, params), moves), key, base
  )
  if not trees.size(trainable):
    raise ValueError("--peft: nothing is left to train")
  if experiment.frozen != "same" and not trees.size(frozen):
    raise ValueError(
      f"--frozen={experiment.frozen}: every weight trains and none is frozen"
    )
  optimizer = experiment.optimizer.make(
    experiment.steps, axes.suffixes(trainable)
  )

  def init(key: jax.Array, params: Any) -> TrainState:
    return state_lib.create(
      roles(key, params),
      moves,
      optimizer,
      key,
      average=experiment.average is not None,
      refreshed=refreshed,
    )

  boxed_state = jax.eval_shape(init, key, base)
  placement = axes.shardings(boxed_state, mesh)
  shapes = lambda tree, placed: jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    axes.unbox(tree),
    placed,
  )
  step = functools.partial(
    step_lib.train_step,
    objective=_whole_objective(experiment),
    forward=forward(model, experiment.scored_at),
    optimizer=optimizer,
    microbatches=experiment.microbatches,
    average_decay=experiment.average,
    refresh=experiment.refresh,
  )
  return Plan(
    abstract=shapes(boxed_state, placement),
    base=shapes(boxed, axes.shardings(boxed, mesh)),
    suffixes=suffixes,
    init=jax.jit(
      lambda k, p: axes.unbox(init(k, p)),
      out_shardings=placement,
      donate_argnums=1,
    ),
    frozen=jax.jit(
      lambda k, p: axes.unbox(trees.split(roles(k, p), moves)[1]),
      out_shardings=placement.frozen,
      donate_argnums=1,
    ),
    step=jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(placement, None),
      compiler_options=switches.of_mesh(
        mesh, experiment.mesh.slices.count, experiment.compiler
      ),
    ),
    learning_rate=experiment.optimizer.learning_rate(experiment.steps),
  )


def _whole_objective(experiment: Experiment) -> Objective:
  """The objective, with what is modelled beside it, on whatever rows."""
  weights = tuple(its.weight for its in experiment.beside.values())
  objective, losses = experiment.objective, experiment.model.router_losses
  whole = Packed(Mixed(objective, weights) if weights else objective)
  return whole if losses is None else Routed(whole, *losses)


def _moving(
  params: Any, suffixes: Any, moves: Callable[[str], bool | int]
) -> Any:
  """A copy of those of a policy's params of which anything trains, boxed."""
  out: dict[str, Any] = {}
  for path, suffix in trees.paths(suffixes):
    if moves(f"policy/params/{path}") is not False:
      trees.put(out, path, axes.box(trees.get(params, path), suffix))
  return out


def seen(plan: Plan, policy: Any) -> Any:
  """A base's params in their own dtypes, however they are held."""
  return hold.seen(plan.base, policy["params"], policy.get("quantised", {}))


def merged(plan: Plan, policy: Any) -> Any:
  """A policy's params with its adapters folded in, in their own dtypes.

  Raises:
    ValueError: adapters that are no change of a weight.
  """

  def fold(policy: Any) -> Any:
    adapters = policy.get("adapters", {})
    return merge.merge(seen(plan, policy), adapters, plan.suffixes)

  return jax.jit(fold)(policy)
