"""Classifiers of texts that are of several classes at once, or of none.

The role "policy" is the classifier: one output a class. A row is a text, and
`classes_BO` says of which classes it is; a row without any token in `mask_BT`
is none.

Dimension key: B rows; T positions; O classes.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.objectives.ranking import num_read, output
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class MultiLabel(Objective):
  """Binary cross-entropy of each class, from logits z.

    loss = mean over texts i and classes k of
           - w_k y_ik log sigmoid(z_ik) - (1 - y_ik) log sigmoid(-z_ik)

  With y_ik 1 where text i is of class k, else 0. As transformers has it of
  problem_type multi_label_classification, where all w_k are 1.
  """

  reads: ClassVar[tuple[str, ...]] = ("class_sets",)
  problem_type: ClassVar[str] = "multi_label_classification"

  weights: tuple[float, ...] = field(
    (),
    "w, of the texts that are of a class, in order of classes, as for rare"
    " ones: how many are not for one that is; none = 1",
  )

  def __post_init__(self) -> None:
    if any(weight < 0 for weight in self.weights):
      raise ValueError(
        f"--objective.weights={','.join(map(str, self.weights))}: must be at"
        " least 0"
      )

  def outputs(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """Logits of classes, [B, O]."""
    return output(forward["policy"](roles["policy"], batch), batch)

  def weigh(self, batch: Batch) -> Batch:
    """Weights of texts sum to 1."""
    weight_B = batch["mask_BT"].any(-1).astype(jnp.result_type(float))
    return {**batch, "weight_B": weight_B / jnp.maximum(weight_B.sum(), 1)}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over texts of weight times loss, and what is reported.

    A text is right, for `accuracy`, where all of its classes are.
    """
    logits_BO = output(
      forward["policy"](roles["policy"], batch, key=key), batch
    )
    is_BO = batch["classes_BO"]
    weight_O = jnp.asarray(self.weights or (1.0,), logits_BO.dtype)
    yes_BO, no_BO = (jax.nn.log_sigmoid(s * logits_BO) for s in (1, -1))
    loss_B = -jnp.where(is_BO, weight_O * yes_BO, no_BO).mean(-1)
    right_B = ((logits_BO > 0) == is_BO).all(-1).astype(loss_B.dtype)
    return (batch["weight_B"] * loss_B).sum(), {
      "accuracy": Mean.of(right_B, batch["mask_BT"].any(-1)),
      "tokens": Mean.sum(num_read(batch).astype(loss_B.dtype)),
    }
