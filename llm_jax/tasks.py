"""Labelled texts measured, for the verb `evaluate`."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import axes, measuring, state_plan
from llm_jax.contracts import Batch, Roles
from llm_jax.data.examples import Examples
from llm_jax.datasets import Dataset
from llm_jax.evaluation import class_sets, classes, numbers
from llm_jax.experiment import Experiment, Marks
from llm_jax.model import Model
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.multi_label import MultiLabel
from llm_jax.objectives.regression import Regression
from llm_jax.reporting.progress import progress
from llm_jax.sharding import mesh as mesh_lib

Teller = Classification | MultiLabel | Regression


class Measured(NamedTuple):
  """What there is of a dataset."""

  measures: dict[str, float]
  baselines: dict[str, dict[str, float]]  # what knows nothing of the text
  beside: dict[str, Any]  # more of evaluation.json
  written: Mapping[str, Any] = MappingProxyType({})  # files, by their endings


def check(
  experiment: Experiment, datasets: list[Dataset], names: tuple[str, ...]
) -> None:
  """ValueError where a run does not tell what texts have to be told of them.

  Args:
    experiment: the run.
    datasets: to be measured.
    names: of the run's outputs.
  """
  objective = experiment.objective
  for d in datasets:
    where = d.settings.data
    if not isinstance(where, Examples | Marks):
      continue
    if where.rows not in objective.reads:
      kind = "" if isinstance(where, Marks) else "--data.rows="
      raise ValueError(
        f"{d.name}: has texts with {kind}{where.rows}, and a run trained"
        f" with {type(objective).__name__} tells {' or '.join(objective.reads)}"
      )
    if names and where.rows != "spans" and d.classes != names:
      raise ValueError(
        f"{d.name}: has the classes {', '.join(d.classes)}, and the run tells"
        f" {', '.join(names)} apart; name them alike with its .data.classes"
      )


def measure(
  experiment: Experiment, model: Model, mesh: Mesh, roles: Roles, d: Dataset
) -> Measured:
  """Loss and figures of a dataset that `check` has seen."""
  objective = experiment.objective
  assert isinstance(objective, Teller)
  tell = measuring.teller(objective, model, mesh)
  measures, _ = tell(roles, d.rows(), False, progress, d.name)
  bar = progress(d.rows(), d.num_batches, f"telling {d.name}")
  said, true = _told(objective, model, mesh, roles, bar)
  loss = {"loss": measures["loss"]}
  if isinstance(objective, Regression):
    of = numbers.Told(said[:, 0], true)
    return Measured(loss | numbers.measure(of), numbers.baselines(of), {})
  if isinstance(objective, MultiLabel):
    sets = class_sets.Told(said > 0, true)
    each = class_sets.of_each(sets, d.classes)
    return Measured(
      loss | class_sets.measure(sets),
      class_sets.baselines(sets),
      {"classes": each},
    )
  found = classes.Classified(said.astype(np.float64), true)
  curve = classes.confidence(found).curve()
  return Measured(
    loss | classes.measure(found),
    classes.baselines(found),
    {"calibration": curve, "classes": classes.of_each(found, d.classes)},
  )


def _told(
  objective: Teller,
  model: Model,
  mesh: Mesh,
  roles: Roles,
  batches: Iterable[Batch],
) -> tuple[np.ndarray, np.ndarray]:
  """Outputs of all texts, [M, O], and what is true of them."""
  forward, (name,) = state_plan.forward(model), objective.reads
  column = {"classes": "class_B", "class_sets": "classes_BO"}.get(
    name, "number_B"
  )
  says = (
    objective.logp
    if isinstance(objective, Classification)
    else objective.outputs
  )

  @jax.jit
  def ask(roles: Roles, batch: Batch) -> tuple[jax.Array, ...]:
    found = says(forward, roles, batch), batch[column], batch["mask_BT"].any(-1)
    return tuple(axes.constrain(x, "_" * x.ndim) for x in found)

  parts = [
    jax.device_get(ask(roles, mesh_lib.place(batch, mesh))) for batch in batches
  ]
  return tuple(  # type: ignore[return-value]
    np.concatenate([part[i][part[2]] for part in parts]) for i in range(2)
  )
