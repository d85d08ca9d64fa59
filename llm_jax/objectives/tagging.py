"""Classes of words: each is told where its first token stands.

`tag_BT` has the number of a word's tag where `mask_BT` is True, and nothing
elsewhere. The role "policy" has one output a tag.

Dimension key: B rows; T positions; O tags.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles, Scores
from llm_jax.ops import weights
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class Tagging(Objective):
  """Cross-entropy of each word's tag. Devlin et al. 2018, section 5.3.

    loss = mean over words of the global batch of log sum_o exp(z_o) - z_tag

  arXiv:1810.04805; z are the outputs at the first token of a word, the others
  of which are not asked.
  """

  reads: ClassVar[tuple[str, ...]] = ("tags",)
  outputs_of: ClassVar[str] = "token"

  def asked(self, batch: Batch) -> jax.Array:
    """No token is predicted."""
    return jnp.zeros_like(batch["mask_BT"])

  def weigh(self, batch: Batch) -> Batch:
    return {**batch, "weight_BT": weights.token_mean(batch["mask_BT"])}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over words of weight times loss, and what is reported."""
    scores = forward["policy"](roles["policy"], batch, key=key)
    logits_BTO, tag_BT = outputs(scores, "one a tag"), batch["tag_BT"]
    logp_BTO = jax.nn.log_softmax(logits_BTO)
    # Compared, not gathered: rows stay on their device.
    is_BTO = tag_BT[..., None] == jnp.arange(logp_BTO.shape[-1])
    loss_BT = -jnp.where(is_BTO, logp_BTO, 0).sum(-1)
    right_BT = (logits_BTO.argmax(-1) == tag_BT).astype(loss_BT.dtype)
    return (batch["weight_BT"] * loss_BT).sum(), {
      "accuracy": Mean.of(right_BT, batch["mask_BT"]),
      "tokens": Mean.sum(batch["mask_BT"].sum().astype(loss_BT.dtype)),
    }


def outputs(scores: Scores, needed: str) -> jax.Array:
  """What the output head says of each position, [B, T, O]."""
  if scores.output_BTO is None:
    raise ValueError(f"--model.outputs=0: must be {needed}")
  return scores.output_BTO
