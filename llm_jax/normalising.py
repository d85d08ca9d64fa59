"""Gain and bias of a trained reward model, kept in its run's folder."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import host, measuring
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Share
from llm_jax.data.examples import Examples
from llm_jax.data.preferred import Preferred
from llm_jax.evaluation import objective as by_objective
from llm_jax.evaluation import standard
from llm_jax.evaluation.standard import Line
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.ranking import Ranking
from llm_jax.reporting import files
from llm_jax.reporting.progress import progress, say
from llm_jax.training.state import TrainState

_NAME = "reward.json"


def of(experiment: Experiment, folder: pathlib.Path, step: int) -> Line:
  """What the rewards of a run are to be multiplied by, and added to.

  Whoever asks a run for rewards applies it; it leaves them as they are where
  they are implicit ones of a policy, or are not to be normalised.

  Args:
    experiment: the settings that the run was made with.
    folder: of the run.
    step: of the checkpoint that is asked.

  Raises:
    ValueError: nothing was measured of that checkpoint.
  """
  if not _has_any(experiment):
    return Line()
  found = read(experiment, folder, step)
  if found is None:
    raise ValueError(
      f"its rewards were not measured after step {step}, for their gain and"
      " bias; its `train`, called again, does so after its last step"
    )
  return Line(found["gain"], found["bias"])


def read(
  experiment: Experiment, folder: pathlib.Path, step: int
) -> dict[str, Any] | None:
  """What was measured of a checkpoint; None where that was of another.

  A file that tells no gain and bias tells nothing, and is made anew.
  """
  if not _has_any(experiment):
    return None
  try:
    found = files.read_json(folder / _NAME)
  except ValueError:
    return None
  if not isinstance(found, dict):
    return None  # nothing was, as of weights that are no run's
  about = _about(experiment, folder, step)
  if not about.items() <= found.items():
    return None
  line = [found.get(name) for name in Line._fields]
  is_line = all(isinstance(x, float) and math.isfinite(x) for x in line)
  return found if is_line and found["gain"] > 0 else None


def folded(params: dict[str, Any], line: Line) -> tuple[dict[str, Any], float]:
  """Params of a reward model that says its rewards as a line changes them.

    gain (x W + b) + bias = x (gain W) + (gain b + bias)

  Args:
    params: with an output head, and b where the model has it.
    line: gain and bias.

  Returns:
    The params, and what is still to be added to rewards: the bias of the line,
    where the model has none.
  """
  scaled = {"output_head": params["output_head"] * line.gain}
  if "output_bias" not in params:
    return {**params, **scaled}, line.bias
  return {**params, **scaled, "output_bias": line(params["output_bias"])}, 0.0


def measure(
  experiment: Experiment,
  folder: pathlib.Path,
  tokens: Any,
  model: Model,
  mesh: Mesh,
  share: Share,
  state: TrainState,
) -> None:
  """Measures a run's last checkpoint, unless that has been done.

  Reference completions are the best of their prompts, or any whose class is
  known: of the held-out split, or where it is empty of the training split.

  Args:
    experiment: the run.
    folder: of the run; its checkpoint is on disk.
    tokens: its data.
    model: its decoder.
    mesh: where.
    share: this process's (index, count) of rows.
    state: of that checkpoint.
  """
  if not _has_any(experiment):
    return
  assert isinstance(tokens, Preferred)  # no other data have such rewards
  step, first = int(state.step), jax.process_index() == 0
  # Others may not see yet what the first process has written.
  if host.agreed(first and read(experiment, folder, step) is not None):
    return
  split, rewards = _rewards(
    experiment, tokens, model, mesh, share, state.averaged
  )
  line = standard.line(rewards, experiment.rewards.normalise)
  found = {
    "split": split,
    "completions": len(rewards),
    "mean": float(rewards.mean()),
    "deviation": float(rewards.std()),
    **line._asdict(),
  }
  if first:
    about = _about(experiment, folder, step)
    files.write_json(folder / _NAME, about | found)
  say(
    f"rewards of {len(rewards)} reference completions ({split}): mean"
    f" {found['mean']:.4g}, deviation {found['deviation']:.4g}"
  )


def _has_any(experiment: Experiment) -> bool:
  """Whether there are rewards, of an output head, that are to be changed."""
  if isinstance(experiment.data, Examples):
    return False  # texts alone are no completions
  said_by_a_head = isinstance(experiment.objective, Ranking | Classification)
  return said_by_a_head and experiment.rewards.normalise != "none"


def _about(
  experiment: Experiment, folder: pathlib.Path, step: int
) -> dict[str, Any]:
  """Whatever decides what is measured."""
  return dataclasses.asdict(experiment.rewards) | {
    "checkpoint_step": step,
    "checkpoint": Store(folder / "checkpoints").checksum(step),
  }


def _rewards(
  experiment: Experiment,
  tokens: Preferred,
  model: Model,
  mesh: Mesh,
  share: Share,
  roles: Any,
) -> tuple[str, np.ndarray]:
  """A split's name and rewards of its reference completions."""
  size, split = experiment.batch_size, "validation"
  try:
    batches = tokens.held_out(split, size, share)
  except ValueError:  # it is empty
    split = "train"
    batches = tokens.held_out(split, size, share)
  tell = measuring.teller(experiment.objective, model, mesh)
  chosen = [batches[i] for i in _spread(experiment, len(batches))]
  rows = tell.rewards(roles, chosen, progress, "references")
  found = by_objective.gather(rows, experiment.objective.rows_together)
  assert found is not None
  return split, standard.best(found)[: experiment.rewards.references]


def _spread(experiment: Experiment, num_batches: int) -> list[int]:
  """Batches with as many prompts as are wanted.

  From all over a split, as its sources follow each other.
  """
  rows = experiment.rewards.references * experiment.objective.rows_together
  wanted = min(num_batches, -(-rows // experiment.batch_size))
  return np.linspace(0, num_batches - 1, wanted).round().astype(int).tolist()
