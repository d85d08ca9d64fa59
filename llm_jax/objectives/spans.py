"""Answers as spans of a text: where they start and where they end.

`start_B` and `end_B` are the positions of an answer's first and last token,
both of them the position of "no answer" where a row holds none. `mask_BT` has
the positions that may be told: the text's, and that of "no answer". A row
without any is none. The role "policy" has two outputs: s and e.

Dimension key: B rows; T positions; 2 = (start, end).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.objectives.tagging import outputs
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class Spans(Objective):
  """Cross-entropies of start and end. Devlin et al. 2018, section 4.2.

    loss = mean over rows of (CE(s, start) + CE(e, end)) / 2,
    CE(z, i) = log sum_{j in mask} exp(z_j) - z_i

  arXiv:1810.04805. What is told of a question is the span of the largest
  s_i + e_j with i <= j < i + longest, of all windows of its text, unless

    s_0 + e_0 > s_i + e_j + threshold

  of "no answer", in the window where that is least (section 4.3, where
  tau = -threshold), and questions of the training split have none.
  """

  reads: ClassVar[tuple[str, ...]] = ("spans",)
  outputs_of: ClassVar[str] = "span"

  longest: int = field(
    30, "tokens of an answer that `evaluate` tells, at most", low=1
  )
  threshold: float = field(
    0.0,
    "by how much no answer may score more than one that `evaluate` tells; its"
    " best_f1_threshold is the best one there",
  )

  def asked(self, batch: Batch) -> jax.Array:
    """No token is predicted."""
    return jnp.zeros_like(batch["mask_BT"])

  def weigh(self, batch: Batch) -> Batch:
    """Weights of rows sum to 1."""
    there_B = batch["mask_BT"].any(-1).astype(jnp.result_type(float))
    return {**batch, "weight_B": there_B / jnp.maximum(there_B.sum(), 1)}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over rows of weight times loss, and what is reported."""
    scores = forward["policy"](roles["policy"], batch, key=key)
    logits_BT2 = outputs(scores, "2, of starts and ends")
    mask_BT = batch["mask_BT"]
    at_B2 = jnp.stack([batch["start_B"], batch["end_B"]], -1)
    lowest = jnp.finfo(logits_BT2.dtype).min
    allowed_BT2 = jnp.where(mask_BT[..., None], logits_BT2, lowest)
    logp_BT2 = jax.nn.log_softmax(allowed_BT2, axis=1)
    # Compared, not gathered: rows stay on their device.
    position_T1 = jnp.arange(mask_BT.shape[1])[:, None]
    is_BT2 = (at_B2[:, None] == position_T1) & mask_BT[..., None]
    loss_B = -jnp.where(is_BT2, logp_BT2, 0).sum(1).mean(-1)
    right_B2 = logp_BT2.argmax(1) == at_B2
    there_B = mask_BT.any(-1)
    mean = lambda x_B: Mean.of(x_B.astype(loss_B.dtype), there_B)
    return (batch["weight_B"] * loss_B).sum(), {
      "accuracy": mean(right_B2.all(-1)),
      "start_accuracy": mean(right_B2[:, 0]),
      "end_accuracy": mean(right_B2[:, 1]),
      "tokens": Mean.sum(mask_BT.sum().astype(loss_B.dtype)),
    }
