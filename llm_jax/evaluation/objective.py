"""What an objective says of a split, as it would in training.

Dimension key: B rows; G prompts; K rows of each.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import axes
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.evaluation.pairs import Completions
from llm_jax.ops.metrics import Mean


def totals(
  objective: Objective, forward: Forward, roles: Roles, batch: Batch
) -> Metrics:
  """Metrics of one batch without dropout; pure, to be compiled."""
  batch = objective.weigh(objective.annotate(forward, roles, batch))
  value, metrics = objective.loss(forward, roles, batch, None)
  num = (batch["weight_B"] > 0).sum().astype(value.dtype)
  return metrics | {"loss": Mean(value * num, num)}


def evaluate(
  total_of: Callable[[Roles, Batch], Metrics],
  roles: Roles,
  batches: Iterable[Batch],
) -> dict[str, float]:
  """Adds up batches in float64: every example of the split counts once."""
  sums: Metrics = {}
  for batch in batches:
    wide = jax.tree.map(np.float64, jax.device_get(total_of(roles, batch)))
    for name, mean in wide.items():
      sums[name] = sums[name] + mean if name in sums else mean
  if not sums or not sums["loss"].weight:
    raise ValueError("there is no example to evaluate on")
  return {name: mean.compute() for name, mean in sums.items()}


def completions(
  objective: Objective, forward: Forward, roles: Roles, batch: Batch
) -> dict[str, jax.Array] | None:
  """Rewards, lengths and ranks of one batch's rows; pure, to be compiled.

  Rows without `rank_B` are pairs. None where the objective has no rewards.
  """
  reward_B = objective.rewards(forward, roles, batch)
  if reward_B is None:
    return None
  mask_BT = batch["mask_BT"]
  rank_B = batch.get("rank_B", jnp.arange(mask_BT.shape[0]) % 2)
  found = {
    "reward": reward_B,
    "length": mask_BT.sum(-1),
    "rank": jnp.where(mask_BT.any(-1), rank_B, -1),
  }
  # Whole on every device, so that each of several processes reads it.
  return {name: axes.constrain(x, "_") for name, x in found.items()}


def gather(
  rows: Iterable[dict[str, jax.Array] | None], together: int
) -> Completions | None:
  """What `completions` says of batches; `together` rows, K, are of a prompt."""
  found = []
  for its in rows:
    if its is None:
      return None
    host = jax.device_get(its)
    found.append({k: x.reshape(-1, together) for k, x in host.items()})
  if not found:
    raise ValueError("there is no example to evaluate on")
  whole = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
  return Completions(whole["reward"], whole["length"], whole["rank"])
