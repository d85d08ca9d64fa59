"""Policy gradients on completions that the policy drew itself.

A batch has of each token `old_logp_BT`, its log-probability when it was drawn,
and `advantage_BT`, how much better it was than expected; `mask_BT` marks what
was drawn. `credit` makes the latter from scores, once for all that was drawn;
minibatches of it are then learned from, several times.

Dimension key: B completions; T positions.
"""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles, Scores
from llm_jax.ops import weights
from llm_jax.ops.kl import estimate, Estimator
from llm_jax.ops.metrics import Mean, Variance

_FAR = 20.0  # nats that a log-ratio may be from 0


@dataclasses.dataclass(frozen=True)
class Policy(Objective):
  """The clipped surrogate. Schulman et al. 2017, arXiv:1707.06347, eq. 7.

    loss = mean of max(-A rho, -A clip(rho, 1 - low, 1 + high))
           + kl mean of KL(policy || reference) - entropy mean of entropy

  where rho = policy(token) / policy at the time of drawing(token). Differs from
  the paper: log rho is kept within 20 nats, so that it is always a number.
  """

  reads: ClassVar[tuple[str, ...]] = ("rollouts",)

  clip: float = field(0.2, "how far below 1 a ratio still counts", low=0)
  clip_high: float | None = field(
    None, "how far above 1 it does; none = as below (DAPO: 0.28)", low=0
  )
  dual_clip: float | None = field(
    None,
    "where the advantage is negative, ratios count up to this"
    " (arXiv:1912.09729; often 3); none = without end",
    low=1,
  )
  ratio: Literal["token", "sequence"] = field(
    "token",
    "of each token; or one for a completion, the geometric mean of its tokens'"
    " (GSPO, arXiv:2507.18071)",
  )
  mean: Literal["token", "sequence", "constant"] = field(
    "token",
    "each token counts the same; or each completion; or each token, divided by"
    " completions times the most tokens that one may have (Dr. GRPO)",
  )
  kl: float = field(
    0.0, "weight of the KL from the reference, as a loss", low=0
  )
  kl_loss: Estimator = field("k3", "which estimator of it is the loss")
  entropy: float = field(0.0, "weight of the entropy, to be kept up", low=0)

  @abc.abstractmethod
  def credit(self, batch: Batch) -> Batch:
    """All that was drawn, with `advantage_BT` and whatever else is learned.

    Args:
      batch: has `score_B` and `old_logp_BT`, and where they are asked for
        `ref_logp_BT` and `old_value_BT`.
    """

  @property
  def needs_reference(self) -> bool:
    return self.kl > 0

  def asked(self, batch: Batch) -> jax.Array:
    return batch["mask_BT"]

  def weigh(self, batch: Batch) -> Batch:
    """Weights of the tokens of a minibatch."""
    mask_BT = batch["mask_BT"]
    if self.mean == "token":
      weight_BT = weights.token_mean(mask_BT)
    elif self.mean == "sequence":
      weight_BT = weights.sequence_mean(mask_BT)
    else:
      there_B = mask_BT.any(-1)
      most = jnp.maximum(there_B.sum(), 1) * batch["limit_B"].max()
      weight_BT = mask_BT / most.astype(jnp.result_type(float))
    return {**batch, "weight_BT": weight_BT}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum over tokens of weight times loss, and what is reported.

    Without dropout: a ratio is of two policies, not of two of their halves.
    """
    del key
    scores = forward["policy"](roles["policy"], batch, entropy=True)
    return self.of_scores(scores, batch)

  def of_scores(
    self, scores: Scores, batch: Batch
  ) -> tuple[jax.Array, Metrics]:
    """The loss of a forward."""
    mask_BT, weight_BT = batch["mask_BT"], batch["weight_BT"]
    advantage_BT = batch["advantage_BT"]
    difference_BT = jnp.where(mask_BT, scores.logp_BT - batch["old_logp_BT"], 0)
    log_ratio_BT = difference_BT
    if self.ratio == "sequence":
      log_ratio_BT = _same_for_all(difference_BT, mask_BT)
    # e^89 is no number in float32, and its gradient would be nobody's.
    ratio_BT = jnp.exp(jnp.clip(log_ratio_BT, -_FAR, _FAR))
    high = self.clip if self.clip_high is None else self.clip_high
    clipped_BT = jnp.clip(ratio_BT, 1 - self.clip, 1 + high)
    loss_BT = jnp.maximum(-advantage_BT * ratio_BT, -advantage_BT * clipped_BT)
    bites_BT = -advantage_BT * clipped_BT > -advantage_BT * ratio_BT
    if self.dual_clip is not None:
      most_BT = -advantage_BT * self.dual_clip
      loss_BT = jnp.where(
        advantage_BT < 0, jnp.minimum(loss_BT, most_BT), loss_BT
      )
    loss = (weight_BT * loss_BT).sum()
    metrics = {
      "policy_loss": Mean.sum(loss),
      "clipped": Mean.of(bites_BT.astype(loss_BT.dtype), mask_BT),
      "ratio": Mean.of(ratio_BT, mask_BT),
      "ratio_variance": Variance.of(ratio_BT, mask_BT, around=1.0),
      "kl_old": Mean.of(estimate(-difference_BT, "k3"), mask_BT),
      "advantage": Mean.of(advantage_BT, mask_BT),
      "advantage_variance": Variance.of(advantage_BT, mask_BT),
      "tokens": Mean.sum(mask_BT.sum().astype(loss_BT.dtype)),
    }
    if self.kl:
      moved_BT = scores.logp_BT - batch["ref_logp_BT"]
      moved_BT = estimate(jnp.where(mask_BT, moved_BT, 0), self.kl_loss)
      loss += self.kl * (weight_BT * moved_BT).sum()
      metrics["kl_loss"] = Mean.of(moved_BT, mask_BT)
    if scores.entropy_BT is not None:
      loss -= self.entropy * (weight_BT * scores.entropy_BT).sum()
      metrics["entropy"] = Mean.of(scores.entropy_BT, mask_BT)
    return loss, {
      name: jax.tree.map(jax.lax.stop_gradient, m)
      for name, m in metrics.items()
    }


def _same_for_all(difference_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
  """A completion's mean log-ratio, in the value at each of its tokens.

  GSPO's eq. 11: the gradient of a token's is that of the token's own
  log-probability, which for one advantage a completion is that of the mean.
  """
  count_B1 = jnp.maximum(mask_BT.sum(-1, keepdims=True), 1)
  mean_B1 = difference_BT.sum(-1, keepdims=True) / count_B1
  own_BT = difference_BT - jax.lax.stop_gradient(difference_BT)
  return jax.lax.stop_gradient(mean_B1) + own_BT
