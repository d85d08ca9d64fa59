"""What an objective says of a split, as it would in training."""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
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
