"""Which weights a run begins with, goes on with, and is asked with.

A checkpoint holds what trains; what is frozen is made again: from `init_from`,
or else from the seed. Checksums of the frozen half tell another base apart.
"""

import dataclasses
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
  state_plan,
  storage,
  trees,
)
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.ops.checksum import checksums
from llm_jax.reporting import progress
from llm_jax.state_plan import Plan
from llm_jax.training import state as state_lib
from llm_jax.training.state import TrainState

OUTPUT_HEAD = "output_head"


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
    return jax.jit(lambda policy: state_plan.seen(plan, policy))(
      roles["policy"]
    )
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
  its = state_plan.make(trained, model, mesh)
  base_checks.shapes(
    f"--{flag}={folder}", its.base, like.base, state_plan.is_output
  )
  _, roles = load(trained, its, mesh, folder)
  policy = roles["policy"]
  is_plain = set(policy) == {"params"} and trained.frozen == "same"
  try:
    params = policy["params"] if is_plain else state_plan.merged(its, policy)
  except ValueError as e:
    raise ValueError(f"--{flag}={folder}: {e}") from e
  return {name: x for name, x in params.items() if name in like.base}


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
