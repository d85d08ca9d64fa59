"""Classifiers of texts, or of completions whose class is a reward.

The role "policy" is the classifier: one output a class. A row is a text, or a
prompt with its completion, and `class_B` the number of its class; a row without
any token in `mask_BT` is none.

Dimension key: B rows; T positions; O classes.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.objectives.ranking import num_read, output
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
  """Cross-entropy of a completion's class, from logits z where it ends.

    loss = sum_i v_i ((1 - e) l_i(y_i) + e mean_k l_i(k)) / sum_i v_i,
    l_i(k) = log sum_j exp(z_ij) - z_ik,  v_i the weight of class y_i

  Of the positive class, a reward as in the tasks of sentiment of Ziegler et
  al. 2019, arXiv:1909.08593, is z, or log p, or log p / (1 - p).
  """

  reads: ClassVar[tuple[str, ...]] = ("classes",)
  problem_type: ClassVar[str] = "single_label_classification"

  positive: int = field(1, "class that is rewarded, counted from 0", low=0)
  reward: Literal["logit", "log_probability", "log_odds"] = field(
    "logit", "what of the positive class is the reward"
  )
  smoothing: float = field(
    0.0, "share of a target that all classes have alike", low=0, high=1
  )
  weights: tuple[float, ...] = field(
    (), "of classes, in order; none = every completion counts the same"
  )

  def __post_init__(self) -> None:
    any_counts = not self.weights or any(self.weights)
    if any(weight < 0 for weight in self.weights) or not any_counts:
      raise ValueError(
        f"--objective.weights={','.join(map(str, self.weights))}: must be at"
        " least 0, and one more than 0"
      )

  def logp(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """Log-probabilities of classes, [B, O]."""
    logits_BO = output(forward["policy"](roles["policy"], batch), batch)
    return jax.nn.log_softmax(logits_BO)

  def rewards(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """The positive class's, [B], of whichever kind the rows are."""
    scores = forward["policy"](roles["policy"], batch)
    return self._reward(output(scores, batch))

  def weigh(self, batch: Batch) -> Batch:
    """Weights of completions sum to 1."""
    weight_B = batch["mask_BT"].any(-1).astype(jnp.result_type(float))
    if self.weights:
      weight_B *= jnp.asarray(self.weights)[batch["class_B"]]
    total = weight_B.sum()
    return {**batch, "weight_B": weight_B / jnp.where(total > 0, total, 1)}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over completions of weight times loss, and what is reported."""
    scores = forward["policy"](roles["policy"], batch, key=key)
    logits_BO = output(scores, batch)
    logp_BO, class_B = jax.nn.log_softmax(logits_BO), batch["class_B"]
    is_BO = class_B[:, None] == jnp.arange(logp_BO.shape[1])
    loss_B = -jnp.where(is_BO, logp_BO, 0).sum(-1)
    if self.smoothing:
      loss_B = (1 - self.smoothing) * loss_B - self.smoothing * logp_BO.mean(-1)
    there_B = batch["mask_BT"].any(-1)
    right_B = (logp_BO.argmax(-1) == class_B).astype(loss_B.dtype)
    reward_B = jax.lax.stop_gradient(self._reward(logits_BO))
    return (batch["weight_B"] * loss_B).sum(), {
      "accuracy": Mean.of(right_B, there_B),
      "reward": Mean.of(reward_B, there_B),
      "tokens": Mean.sum(num_read(batch).astype(loss_B.dtype)),
    }

  def _reward(self, logits_BO: jax.Array) -> jax.Array:
    """Of the positive class, [B]."""
    positive_O = jnp.arange(logits_BO.shape[1]) == self.positive
    of_B = jnp.where(positive_O, logits_BO, 0).sum(-1)
    if self.reward == "logit":
      return of_B
    beside_BO = logits_BO
    if self.reward == "log_odds":
      beside_BO = jnp.where(positive_O, -jnp.inf, logits_BO)
    return of_B - jax.nn.logsumexp(beside_BO, -1)
