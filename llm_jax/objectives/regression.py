"""A number told of each text.

The role "policy" has one output. A row is a text, and `number_B` its number; a
row without any token in `mask_BT` is none.

Dimension key: B rows; T positions.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.objectives.ranking import num_read, output
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
  """Squared error: loss = mean over texts of (z - y)^2, with z the output.

  As transformers has it of problem_type regression.
  """

  reads: ClassVar[tuple[str, ...]] = ("numbers",)
  problem_type: ClassVar[str] = "regression"

  def outputs(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """The numbers that are said, [B, 1]."""
    return output(forward["policy"](roles["policy"], batch), batch)

  def weigh(self, batch: Batch) -> Batch:
    """Weights of texts sum to 1."""
    weight_B = batch["mask_BT"].any(-1).astype(jnp.result_type(float))
    return {**batch, "weight_B": weight_B / jnp.maximum(weight_B.sum(), 1)}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over texts of weight times loss, and what is reported."""
    said_B = output(forward["policy"](roles["policy"], batch, key=key), batch)
    error_B = said_B[:, 0] - batch["number_B"]
    loss_B, there_B = error_B**2, batch["mask_BT"].any(-1)
    return (batch["weight_B"] * loss_B).sum(), {
      "error": Mean.of(jax.lax.stop_gradient(jnp.abs(error_B)), there_B),
      "tokens": Mean.sum(num_read(batch).astype(loss_B.dtype)),
    }
