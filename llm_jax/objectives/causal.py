"""Next-token prediction. Pretraining and SFT differ only in the mask.

Dimension key: B sequences; T positions.
"""

import dataclasses
from typing import Literal

import jax

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.ops import weights
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class Causal(Objective):
  """Negative log-likelihood of the next token. Bengio et al. 2003, eq. 1.

    loss = sum_t w_t (-log p(y_t | x_<=t) + z_loss * log(Z_t)^2)

  with Z the softmax's normaliser; the second term, off by default, keeps
  logits near zero (PaLM, arXiv:2204.02311, section 5). Weights sum to one over
  the global batch: among targets of `mask_BT` alike, and of `prompt_BT`, where
  rows have prompts, `prompt_weight` times as much (arXiv:2401.13586).
  """

  average: Literal["token", "sequence"] = field("token", "what counts once")
  z_loss: float = field(
    0.0, "weight of log(Z)^2, in nats (PaLM: 1e-4); 0 = off", low=0
  )
  prompt_weight: float = field(
    0.0, "weight of a token of a prompt, beside one of an answer", low=0
  )

  def asked(self, batch: Batch) -> jax.Array | None:
    """Those of answers, and of prompts if they weigh; of plain text, all."""
    if "prompt_BT" not in batch:
      return None
    mask_BT = batch["mask_BT"]
    return mask_BT | batch["prompt_BT"] if self.prompt_weight else mask_BT

  def weigh(self, batch: Batch) -> Batch:
    count_BT = batch["mask_BT"]
    if self.prompt_weight and "prompt_BT" in batch:
      count_BT = count_BT + self.prompt_weight * batch["prompt_BT"]
    if self.average == "token":
      weight_BT = weights.token_mean(count_BT)
    else:
      segment_BT = batch.get("segment_BT")
      weight_BT = weights.sequence_mean(count_BT, segment_BT)
    return {**batch, "weight_BT": weight_BT}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    scores = forward["policy"](roles["policy"], batch, key=key)
    value_BT = -scores.logp_BT
    if self.z_loss:
      value_BT = value_BT + self.z_loss * scores.logz_BT**2
    metrics = {
      "nll": Mean.of(-scores.logp_BT, batch["mask_BT"]),
      "tokens": Mean.sum(batch["mask_BT"].sum().astype(value_BT.dtype)),
    }
    return (batch["weight_BT"] * value_BT).sum(), metrics
