"""Adapters of trained runs: put on a base for generation, or merged into it."""

from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import (
  checks,
  claim,
  config,
  importing,
  importing_adapters,
  state_plan,
  storage,
  trees,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Tokenizer
from llm_jax.data import chat
from llm_jax.experiment import Asked, Experiment, MAY_CHANGE
from llm_jax.model import Model
from llm_jax.peft import stack
from llm_jax.peft.method import Full
from llm_jax.reporting.progress import say
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers

# Settings of a model that only training reads: an adapter's may be others.
_OF_TRAINING = ("model.dropout", "model.init_std")


def asked(
  experiment: Experiment, plan: state_plan.Plan, names: Sequence[str]
) -> list[Experiment]:
  """By which data and method each name is asked: those it was trained with.

  Everything else is as in the experiment of the base.

  Args:
    experiment: of the base's run.
    plan: of that experiment.
    names: as for `load`.

  Raises:
    ValueError: not an adapter; stacked ones that are asked in different ways.
  """
  base = dataclasses.replace(experiment, peft=Full())
  moved = plan.abstract.trainable["policy"]
  run = not importing.is_folder(experiment.init_from)
  if "adapters" in moved and experiment.init_from and run:  # that is the base
    origin = weights.origin(experiment.init_from)
    base = dataclasses.replace(base, data=claim.settings(origin).data)
  out = []
  for name in names:
    found = [_settings(run, experiment) for run in _parts(name)] or [base]
    first, *others = [_template(its) for its in found]
    if any(other != first for other in others):
      said = ", ".join(
        f"{run} {its.data.template}"
        if isinstance(its.data, Asked)
        else f"{run} none, its data are texts"
        for run, its in zip(_parts(name), found, strict=True)
      )
      raise ValueError(
        f"--adapter={name}: adapters of different templates cannot be stacked"
        f" ({said})"
      )
    peft = max((its.peft for its in found), key=lambda method: method.places)
    out.append(dataclasses.replace(experiment, data=found[0].data, peft=peft))
  return out


def load(
  experiment: Experiment,
  plan: state_plan.Plan,
  folder: pathlib.Path,
  step: int | None,
  mesh: Mesh,
  model: Model,
  tokenizer: Tokenizer,
  names: Sequence[str],
) -> tuple[Any, list[Any]]:
  """A run's variables without adapters of its own, and an adapter a name.

  Args:
    experiment: of the base's run.
    plan: of that experiment.
    folder: of that run. Where it has adapters of its own, its base counts.
    step: of its checkpoint.
    mesh: where.
    model: its decoder.
    tokenizer: its tokenizer.
    names: "runs/a", "runs/a+runs/b" (stacked), or "none" (the base).

  Raises:
    ValueError: not an adapter, or not one of this base.
  """
  base = weights.base_params(experiment, plan, model, mesh, folder, step)
  variables, loaded = {"params": base}, {}
  parts = {name: _parts(name) for name in names}
  runs = list(dict.fromkeys(run for each in parts.values() for run in each))
  settings = {run: _settings(run, experiment) for run in runs}
  if len({its.frozen for its in settings.values()}) > 1:
    said = ", ".join(f"{run} {its.frozen}" for run, its in settings.items())
    raise ValueError(
      f"--adapter: bases held differently cannot share a batch ({said})"
    )
  for run, its in settings.items():
    if importing_adapters.is_folder(run):
      begun = importing.untrained(experiment, folder)
      on = experiment.init_from if begun else None
      loaded[run] = _theirs(run, experiment, plan, base, on or str(folder))
      continue
    policy = _load(run, its, model, mesh, tokenizer, base)
    loaded[run] = policy.pop("adapters")
    if run == runs[0]:
      variables = policy  # the base as it is held
  try:
    together = {
      name: stack.together([loaded[run] for run in each]) if each else {}
      for name, each in parts.items()
    }
  except ValueError as e:
    raise ValueError(f"--adapter: {e}") from e
  return variables, [together[name] for name in names]


def rows(adapters: Sequence[Any], which: Sequence[int]) -> Any:
  """Adapters on a leading dim B, row b having that of number `which[b]`."""
  try:
    stacked = stack.rows(adapters)
  except ValueError as e:
    raise ValueError(f"--adapter: {e}") from e
  return jax.tree.map(lambda x: x[jnp.array(which)], stacked)


def merge(
  experiment: Experiment,
  folder: pathlib.Path,
  step: int | None,
  into: pathlib.Path,
  name: str,
) -> int:
  """Writes a run without adapters that does what a run with them does."""
  checks.checkpoint(folder, step)
  if into.exists() and (not into.is_dir() or any(into.iterdir())):
    raise ValueError(f"--into={into}: is there already; name a new folder")
  if isinstance(experiment.peft, Full):
    raise ValueError(
      f"--workdir={folder}: trained its weights themselves and has no adapters,"
      " so there is nothing to merge"
    )
  alone = dataclasses.replace(
    experiment, peft=Full(), frozen="same", init_from=None, workdir=None
  )
  mesh = mesh_lib.make(experiment.mesh)
  with contextlib.ExitStack() as held, jax.set_mesh(mesh):
    model = model_lib.make(experiment, tokenizers.load(folder / "tokenizer"))
    plan = state_plan.make(experiment, model, mesh)
    at, roles = weights.load(experiment, plan, mesh, folder, step)
    try:
      merged = state_plan.merged(plan, roles["policy"])
    except ValueError as e:
      raise ValueError(f"--workdir={folder}: {e}") from e
    its = state_plan.make(alone, model, mesh)
    state = its.init(jax.random.key(alone.seed), merged)
    state = dataclasses.replace(state, step=state.step + at)
    position = Store(folder / "checkpoints").position(at)
    with claim.claim(into, name, alone, held):
      tokenizers.copy(folder / "tokenizer", into / "tokenizer")
      store = Store(into / "checkpoints")
      store.save(at, state_plan.saved(state), position | {"base": {}})
      store.wait()
  say(f"merged {folder} after step {at} into {into}")
  return 0


def _template(its: Experiment) -> str | None:
  """How questions are put to a run; None where it continues texts."""
  if not isinstance(its.data, Asked):
    return None
  return chat.Template(its.data.template).source


def _parts(name: str) -> list[str]:
  return [] if name == "none" else name.split("+")


def _settings(run: str, base: Experiment) -> Experiment:
  """Settings of an adapter's run; ValueError where it is none, or another's.

  Those of a folder of peft's are the base's.
  """
  if importing_adapters.is_folder(run):
    peft = importing_adapters.method(run, "adapter")
    return dataclasses.replace(base, peft=peft)
  folder = storage.path(run, "adapter")
  try:
    found = claim.settings(folder)
    checks.checkpoint(folder, None)
  except ValueError as e:
    said = str(e).removeprefix(f"--workdir={folder}: ")
    meant = importing.meant(folder, "adapter")
    raise ValueError(f"--adapter={run}: {said}{meant}") from e
  there, here = (config.to_json(e.model) for e in (found, base))
  for path, (its, ours) in config.differences(there, here).items():
    if not f"model.{path}".startswith(MAY_CHANGE + _OF_TRAINING):
      raise ValueError(
        f"--adapter={run}: of another model: {path} is {its} there and {ours}"
        " here"
      )
  return found


def _theirs(
  given: str, base: Experiment, plan: state_plan.Plan, params: Any, on: str
) -> dict[str, Any]:
  """The adapters of a folder of peft's for the base `params`, named `on`."""
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    params,
  )
  adapters, replaced = importing_adapters.load(
    given, "adapter", base.model, like, plan.suffixes, on
  )
  if replaced:
    path, _ = next(iter(trees.paths(replaced)))
    raise ValueError(
      f"--adapter={given}: has a {path} of its own in place of the base's; use"
      f" --init_from=BASE+{given}"
    )
  found: dict[str, Any] = adapters
  return found


def _load(
  run: str,
  its: Experiment,
  model: Model,
  mesh: Mesh,
  tokenizer: Tokenizer,
  params: Any,
) -> dict[str, Any]:
  """The variables of an adapter's run whose base is `params`."""
  plan = state_plan.make(its, model, mesh, tokenizer.encode)
  moved = plan.abstract.trainable["policy"]
  if "adapters" not in moved or jax.tree.leaves(moved["params"]):
    raise ValueError(
      f"--adapter={run}: trained weights of the base itself; use it with"
      " --workdir"
    )
  store = Store(storage.path(run, "adapter") / "checkpoints", warn=say)
  part = "average" if its.average is not None else "trainable"
  at, found = store.restore_part({part: plan.abstract.trainable})
  frozen = weights.frozen_on(
    f"--adapter={run}",
    its,
    plan,
    store.position(at),
    jax.tree.map(jnp.copy, params),
  )
  return trees.join(found[part], frozen)["policy"]
