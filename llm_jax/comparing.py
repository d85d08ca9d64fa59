"""Preferences measured, for the verb `evaluate`."""

from collections.abc import Iterable
from typing import Any

import jax
from jax.sharding import Mesh

from llm_jax import importing, measuring, state_plan, storage
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Objective, Roles
from llm_jax.data.preferences import Preferences
from llm_jax.evaluation import classes, pairs
from llm_jax.evaluation import objective as by_objective
from llm_jax.evaluation.classes import Classified
from llm_jax.evaluation.pairs import Completions
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.packed import Packed
from llm_jax.reporting.progress import progress
from llm_jax.sharding import mesh as mesh_lib


def has_reference(experiment: Experiment) -> bool:
  """Whether the policy is one that speaks, and its beginning is there.

  ORPO and the like train without a reference; they can be held against one as
  long as the run that they began with is there.
  """
  objective, base = experiment.objective, experiment.init_from
  if objective.needs_reference:
    return True
  if {"rankings", "classes", "text"} & set(objective.reads):
    return False
  return (
    base is None
    or importing.is_folder(base)
    or bool(Store(storage.path(base) / "checkpoints").steps())
  )


class Comparer:
  """Measures of completions, by an objective and its rewards."""

  def __init__(self, objective: Objective, model: Model, mesh: Mesh):
    self._reads = objective.reads
    self._tell = measuring.teller(objective, model, mesh)
    self._objective, self._model, self._mesh = objective, model, mesh

  def __call__(
    self,
    where: Preferences,
    roles: Roles,
    batches: Iterable[Batch],
    compared: Iterable[Batch] | None,
    together: int,
    name: str,
  ) -> tuple[dict[str, float], Completions | None]:
    """Measures, and completions with their rewards, where there are any.

    Measures are of both, except where rows have classes: of these alone.

    Args:
      where: whose rows they are.
      roles: of the run.
      batches: as `where` has them.
      compared: pairs instead, for rewards; None = the same, () = none.
      together: rows of a prompt, among those that rewards are of.
      name: of the data.
    """
    # Answers alone are pairs that lack what is rejected.
    rows = "pairs" if where.rows == "answers" else where.rows
    told, ranked = rows in self._reads, rows == "rankings"
    if ranked and not told:
      return {}, None  # only a reward model has a place for more than two
    out: dict[str, float] = {}
    kept: list[Any] = []
    if told:
      same = compared is None
      out, kept = self._tell(roles, batches, same, progress, name)
    elif compared is None:
      compared = batches
    if compared is not None:
      kept = self._tell.rewards(roles, compared, progress, name)
    found = by_objective.gather(kept, together) if kept else None
    if rows != "classes" and found:
      out |= pairs.measure(found)
    return out, found

  def classified(
    self, roles: Roles, batches: Iterable[Batch], size: int, name: str
  ) -> Classified | None:
    """What a classifier says of completions; None of another run.

    Args:
      roles: of the run.
      batches: of rows with their classes.
      size: how many batches.
      name: of the data.
    """
    objective = self._objective
    if not isinstance(objective, Classification):
      return None
    forward = state_plan.forward(self._model)

    @jax.jit
    def ask(roles: Roles, batch: Batch) -> tuple[jax.Array, ...]:
      told, alone = Packed(objective).shown(forward, batch)
      return classes.rows(objective.logp(told, roles, alone), alone)

    bar = progress(batches, size, f"classifying {name}")
    return classes.gather(
      ask(roles, mesh_lib.place(b, self._mesh)) for b in bar
    )
