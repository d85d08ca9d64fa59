"""Which weights a run begins with, which of them move, and which are kept.

A checkpoint holds what trains; what is frozen is made again: from `init_from`,
or else from the seed. Checksums of the frozen half tell another base apart.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pathlib
from typing import Any
import warnings

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import (
  axes,
  base_checks,
  claim,
  importing,
  importing_adapters,
  keys,
  storage,
  trees,
)
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Forward, Objective
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.models import together
from llm_jax.objectives.mixed import Mixed
from llm_jax.objectives.packed import Packed
from llm_jax.objectives.routed import Routed
from llm_jax.ops.checksum import checksums
from llm_jax.peft import hold, merge
from llm_jax.peft.sites import Base
from llm_jax.reporting import progress
from llm_jax.sharding import switches
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.state import TrainState

OUTPUT_HEAD = "output_head"
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


def plan(
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


def start(experiment: Experiment, plan: Plan, mesh: Mesh) -> TrainState:
  """The state before the first step."""
  base = _base(experiment, plan, mesh)
  with warnings.catch_warnings():  # parts of it may be of no use to the result
    warnings.filterwarnings("ignore", "Some donated buffers")
    state = plan.init(jax.random.key(experiment.seed), base)
  return _with_critic(experiment, plan, mesh, state)


def _with_critic(
  experiment: Experiment, plan: Plan, mesh: Mesh, state: TrainState
) -> TrainState:
  """The state whose critic begins as the reward model that is named."""
  if experiment.value_from is None or "value" not in state.trainable:
    return state
  params = _named(experiment, "value_from", plan, mesh)
  if OUTPUT_HEAD not in params:
    raise ValueError(
      f"--value_from={experiment.value_from}: is no reward model"
    )
  # A folder of a reward model has no head for tokens; a critic asks none.
  params = {**state.trainable["value"]["params"], **params}
  put = lambda part, its: {**part, "value": {"params": its}}
  average = state.average
  if average is not None:  # a donated state may not hold one array twice
    average = put(average, jax.tree.map(jnp.copy, params))
  trainable = put(state.trainable, params)
  return dataclasses.replace(state, trainable=trainable, average=average)


def resume(
  experiment: Experiment, plan: Plan, mesh: Mesh, store: Store
) -> tuple[int, TrainState, dict[str, Any]] | None:
  """Step, state and position of the newest checkpoint; None without one."""
  found = store.restore(plan.saved)
  if found is None:
    return None
  step, state, position = found
  frozen = _frozen(experiment, plan, mesh, position)
  return step, dataclasses.replace(state, frozen=frozen), position


def load(
  experiment: Experiment,
  plan: Plan,
  mesh: Mesh,
  folder: pathlib.Path,
  step: int | None = None,
) -> tuple[int, Any]:
  """Step and roles of a checkpoint; its moving average where it keeps one.

  Args:
    experiment: the settings that the run in `folder` was made with.
    plan: of that experiment.
    mesh: where.
    folder: of the run.
    step: of the checkpoint; None is the newest.
  """
  store = Store(folder / "checkpoints", warn=progress.say)
  part = "average" if experiment.average is not None else "trainable"
  if importing.untrained(experiment, folder):
    return 0, _untrained(experiment, plan, mesh)
  at, found = store.restore_part({part: plan.abstract.trainable}, step)
  frozen = _frozen(experiment, plan, mesh, store.position(at))
  return at, state_lib.whole(trees.join(found[part], frozen))


def _untrained(experiment: Experiment, plan: Plan, mesh: Mesh) -> Any:
  """Roles of a run that nothing has been trained of.

  Raises:
    ValueError: its model has a head that is not in the folder.
  """
  params = _base(experiment, plan, mesh)
  for path, _ in trees.paths(plan.base):
    if trees.get(params, path) is None:
      raise ValueError(
        f"--init_from={experiment.init_from}: has no {path}; train one first"
      )
  roles = {"policy": {"params": params}}
  if "reference" in plan.abstract.roles:
    roles["reference"] = roles["policy"]
  return roles


def _base(experiment: Experiment, plan: Plan, mesh: Mesh) -> Any:
  """Params of the run to begin with; None where the base is new."""
  if not experiment.init_from:
    return None
  return _named(experiment, "init_from", plan, mesh)


def _named(experiment: Experiment, flag: str, plan: Plan, mesh: Mesh) -> Any:
  """Params of the run that a flag names; ValueError where they do not fit."""
  given = getattr(experiment, flag)
  if importing.is_folder(given):
    params = importing.params(
      given, flag, experiment.model, plan.base, plan.suffixes
    )
  else:
    params = _of_run(experiment, flag, given, plan, mesh)
  return importing_adapters.folded(
    params, given, flag, experiment.model, plan.base, plan.suffixes
  )


def _of_run(
  experiment: Experiment, flag: str, given: str, plan: Plan, mesh: Mesh
) -> Any:
  """Params of another run; ValueError where they do not fit."""
  folder = origin(given, flag)
  base_checks.meaning(
    flag, folder, claim.settings(folder).model, experiment.model
  )
  return base_of(folder, plan, mesh, flag)


def base_params(
  experiment: Experiment,
  plan: Plan,
  model: Model,
  mesh: Mesh,
  folder: pathlib.Path,
  step: int | None,
) -> Any:
  """A run's params without its adapters, for other adapters to be put on."""
  if "adapters" not in plan.abstract.trainable["policy"]:
    _, roles = load(experiment, plan, mesh, folder, step)
    return jax.jit(lambda policy: seen(plan, policy))(roles["policy"])
  params = _base(experiment, plan, mesh)
  if params is not None:
    return params
  placement = jax.tree.map(lambda x: x.sharding, plan.base)
  make = lambda key: axes.unbox(model.init(key))["params"]
  return jax.jit(make, out_shardings=placement)(jax.random.key(experiment.seed))


def base_of(
  folder: pathlib.Path, like: Plan, mesh: Mesh, flag: str = "init_from"
) -> Any:
  """A run's weights as params of another's base; adapters are merged.

  What says numbers is taken along where the other has it, too. The flag is the
  one that names the run, for what errors say.
  """
  trained = claim.settings(folder)
  shape = trained.model
  if not shape.vocab_size:
    table = like.base["embedding"]
    shape = dataclasses.replace(shape, vocab_size=table.shape[0])
  model = model_lib.of_shape(shape)
  its = plan(trained, model, mesh)
  base_checks.shapes(f"--{flag}={folder}", its.base, like.base, is_output)
  _, roles = load(trained, its, mesh, folder)
  policy = roles["policy"]
  is_plain = set(policy) == {"params"} and trained.frozen == "same"
  try:
    params = policy["params"] if is_plain else merged(its, policy)
  except ValueError as e:
    raise ValueError(f"--{flag}={folder}: {e}") from e
  return {name: x for name, x in params.items() if name in like.base}


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


def _frozen(
  experiment: Experiment, plan: Plan, mesh: Mesh, position: dict[str, Any]
) -> Any:
  """The frozen half, made again; ValueError where it is not the same."""
  if not jax.tree.leaves(plan.abstract.frozen):
    return plan.abstract.frozen
  given = experiment.init_from or f"(none, --seed={experiment.seed})"
  base = _base(experiment, plan, mesh)
  return frozen_on(f"--init_from={given}", experiment, plan, position, base)


def frozen_on(
  given: str,
  experiment: Experiment,
  plan: Plan,
  position: dict[str, Any],
  base: Any,
) -> Any:
  """The frozen half made on a base, which is used up.

  Raises:
    ValueError: it is not what a checkpoint at `position` was trained beside.
  """
  with warnings.catch_warnings():  # parts of it may be of no use to the result
    warnings.filterwarnings("ignore", "Some donated buffers")
    frozen = plan.frozen(jax.random.key(experiment.seed), base)
  here = checksums(frozen)
  for path, there in position.get("base", {}).items():
    if path.partition("/")[0] in frozen and here.get(path) != there:
      raise ValueError(
        f"{given}: not the base that this run was trained on; the first weight"
        f" to differ is {path}"
      )
  return frozen


def origin(run: str, flag: str = "init_from") -> pathlib.Path:
  """The run that a flag names; ValueError where there is none."""
  folder = storage.path(importing.parted(run)[0], flag)
  if not Store(folder / "checkpoints").steps():
    if importing.is_folder(run):
      raise ValueError(f"--{flag}={run}: takes a run, and no folder of others")
    meant = importing.meant(folder, flag)
    raise ValueError(f"--{flag}={run}: holds no trained run{meant}")
  return folder
