"""The reference asked once about all completions, before training."""

import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import axes, state_plan, weights
from llm_jax.contracts import asking, Batch, Share
from llm_jax.data import columns
from llm_jax.data.preferred import Preferred
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.objectives.packed import Packed
from llm_jax.ops import slots
from llm_jax.reporting.progress import progress
from llm_jax.sharding import mesh as mesh_lib

_COLUMN = "ref_logp_B"
_SPLITS = ("train", "validation")


def carry(
  experiment: Experiment,
  tokens: Preferred,
  encode: state_plan.Encode,
  model: Model,
  mesh: Mesh,
  folder: pathlib.Path,
  share: Share,
) -> Preferred:
  """The same data, whose rows know what the reference says of them.

  It is kept in `reference.npz` of the run's folder.

  Args:
    experiment: whose policy, as it begins, is the reference.
    tokens: its data.
    encode: text -> ids, for soft prompts.
    model: its decoder.
    mesh: where.
    folder: of the run.
    share: this process's (index, count) of rows.

  Raises:
    ValueError: the file was made of other rows.
  """
  path = folder / "reference.npz"
  if path.exists():
    return tokens.carrying(columns.load(path, tokens.about))
  plan = state_plan.make(experiment, model, mesh, encode)
  policy = weights.start(experiment, plan, mesh).roles["policy"]
  base = {k: v for k, v in policy.items() if k != "adapters"}
  found = _ask(experiment, tokens, base, model, mesh, share)
  if jax.process_index() == 0:
    columns.save(path, found, tokens.about)
  return tokens.carrying(found)


def _ask(
  experiment: Experiment,
  tokens: Preferred,
  base: Any,
  model: Model,
  mesh: Mesh,
  share: Share,
) -> dict[str, dict[str, np.ndarray]]:
  forward, objective = state_plan.forward(model), Packed(experiment.objective)

  @jax.jit
  def ask(variables: Any, batch: Batch) -> list[jax.Array]:
    roles = {"policy": variables, "reference": variables}
    found = objective.annotate(forward, roles, asking(objective, batch))
    logp, row = (slots.column(found, name) for name in ("ref_logp", "row"))
    # Whole on every device, so that each of several processes reads it.
    whole = lambda x: axes.constrain(x, "_" * x.ndim)
    return [whole(x) for x in (row, slots.lengths(batch) > 0, logp)]

  wide = np.float64 if jax.config.jax_enable_x64 else np.float32
  out = {}
  for split in _SPLITS:
    if not tokens.num_rows(split):
      continue
    logp = np.full(tokens.num_rows(split), np.nan, wide)
    batches = tokens.held_out(split, experiment.batch_size, share)
    for b in progress(batches, len(batches), f"reference, {split}"):
      placed = mesh_lib.place(b, mesh)
      row, there, found = jax.device_get(ask(base, placed))
      logp[row[there]] = found[there]
    out[split] = {_COLUMN: logp}
  return out
