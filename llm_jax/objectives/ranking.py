"""Reward models: a number for each completion, learned from comparisons.

The role "policy" is the reward model. The rows of one prompt stand side by
side, best first; a row without any token in `mask_BT` is no completion.
`rank_B`, where the data has it, is lower for a better one and the same for a
tie.

Dimension key: B rows; T positions; O outputs of the model; K rows of a prompt;
G = B / K prompts; J like K.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles, Scores
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class Ranking(Objective):
  """Every pair of a prompt's K completions. Ouyang et al. 2022, eq. 1.

    loss = mean over prompts of 1 / (number of its pairs) times
           sum over pairs of -log sigmoid(s_w - s_l - m) + center (s_w + s_l)^2

  arXiv:2203.02155; K forwards make K (K - 1) / 2 comparisons. With K = 2 it is
  Bradley-Terry, with margin m from `margin_B` of the better row, where the
  data has it (Llama 2, arXiv:2307.09288, eq. 2). Tied completions are no pair.
  Centering keeps rewards near zero (arXiv:2312.09244).
  """

  reads: ClassVar[tuple[str, ...]] = ("pairs", "rankings")
  problem_type: ClassVar[str] = "regression"

  completions: int = field(2, "rows of a prompt, K", low=2)
  margin: bool = field(True, "ask for the margin that the data gives")
  center: float = field(0.0, "weight of (s_w + s_l)^2; often 0.01", low=0)

  @property
  def rows_together(self) -> int:
    """The rows of a prompt stay in one microbatch."""
    return self.completions

  def rewards(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """The reward model's, [B], of whichever kind the rows are."""
    return reward(forward["policy"](roles["policy"], batch), batch)

  def weigh(self, batch: Batch) -> Batch:
    """Each prompt with any pair counts once."""
    pair_GKJ = self._pairs(batch)
    num_G = pair_GKJ.sum((1, 2))
    there_G = num_G > 0
    float_ = jnp.result_type(float)
    weight_G = there_G / jnp.maximum(num_G, 1).astype(float_)
    weight_G = weight_G / jnp.maximum(there_G.sum(), 1)
    return {**batch, "weight_B": jnp.repeat(weight_G, self.completions)}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over pairs of weight times loss, and what is reported."""
    scores = forward["policy"](roles["policy"], batch, key=key)
    reward_B = reward(scores, batch)
    s_GK, pair_GKJ = self._by_prompt(reward_B), self._pairs(batch)
    margin_GK1: jax.Array | float = 0.0
    if self.margin and "margin_B" in batch:
      margin_GK1 = self._by_prompt(batch["margin_B"])[:, :, None]
    difference_GKJ = s_GK[:, :, None] - s_GK[:, None, :]
    sum_GKJ = s_GK[:, :, None] + s_GK[:, None, :]
    loss_GKJ = -jax.nn.log_sigmoid(difference_GKJ - margin_GK1)
    loss_GKJ = loss_GKJ + self.center * sum_GKJ**2
    weight_G = self._by_prompt(batch["weight_B"])[:, 0]
    loss = (weight_G[:, None, None] * pair_GKJ * loss_GKJ).sum()
    # Each prompt counts once in what is reported, too.
    share_GKJ = pair_GKJ / jnp.maximum(pair_GKJ.sum((1, 2), keepdims=True), 1)
    there_B = batch["mask_BT"].any(-1)
    right_GKJ = (difference_GKJ > 0).astype(loss_GKJ.dtype)
    return loss, {
      "accuracy": Mean.of(right_GKJ, share_GKJ),
      "margin": Mean.of(jax.lax.stop_gradient(difference_GKJ), share_GKJ),
      "reward": Mean.of(jax.lax.stop_gradient(reward_B), there_B),
      "tokens": Mean.sum(batch["mask_BT"].sum().astype(reward_B.dtype)),
    }

  def _by_prompt(self, x_B: jax.Array) -> jax.Array:
    K = self.completions
    if x_B.shape[0] % K:
      raise ValueError(
        f"--batch_size={x_B.shape[0]}: not divisible by"
        f" --objective.completions={K}"
      )
    return x_B.reshape(-1, K)

  def _pairs(self, batch: Batch) -> jax.Array:
    """Whether completion k is better than j."""
    there_GK = self._by_prompt(batch["mask_BT"].any(-1))
    rank_GK = jnp.broadcast_to(jnp.arange(self.completions), there_GK.shape)
    if "rank_B" in batch:
      rank_GK = self._by_prompt(batch["rank_B"])
    better_GKJ = rank_GK[:, :, None] < rank_GK[:, None, :]
    return better_GKJ & there_GK[:, :, None] & there_GK[:, None, :]


def reward(scores: Scores, batch: Batch) -> jax.Array:
  """A reward model's number for each completion, [B], as `output`."""
  return output(scores, batch)[:, 0]


def output(scores: Scores, batch: Batch) -> jax.Array:
  """What the output head says of each completion, [B, O].

  It is said where the last token of the completion is to be predicted: that
  token, as a rule the one that ends every completion, is not looked at. Rows
  without a completion get that of their first position.
  """
  if scores.output_BTO is None:
    raise ValueError(
      "--model.outputs=0: a reward model needs 1, a classifier one a class"
    )
  mask_BT = batch["mask_BT"]
  last_B = jnp.where(mask_BT, jnp.arange(mask_BT.shape[1]), 0).max(-1)
  # Summed, not gathered: rows stay on their device.
  here_BT = jnp.arange(mask_BT.shape[1]) == last_B[:, None]
  return jnp.where(here_BT[..., None], scores.output_BTO, 0).sum(1)


def num_read(batch: Batch) -> jax.Array:
  """Tokens of rows that tell their padding; else those of completions."""
  if "segment_BT" not in batch:
    return batch["mask_BT"].sum()
  there_B1 = batch["mask_BT"].any(-1, keepdims=True)
  return ((batch["segment_BT"] > 0) & there_B1).sum()
