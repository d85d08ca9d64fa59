"""Proximal policy optimisation with a critic.

Dimension key: B completions; T positions.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Roles
from llm_jax.objectives.policy import Policy
from llm_jax.ops import returns, weights
from llm_jax.ops.kl import estimate, Estimator
from llm_jax.ops.metrics import Mean, Variance


@dataclasses.dataclass(frozen=True)
class PPO(Policy):
  """Ziegler et al. 2019, arXiv:1909.08593, as Stiennon et al. 2020 tuned it.

    r_t  = score at the end - beta k_t,  k of policy and reference at drawing
    loss = clipped surrogate
           + c mean 1/2 max((v - R)^2, (clip(v, v_old - e, v_old + e) - R)^2)

  with generalised advantages A (arXiv:1506.02438) and returns R = A + v_old.
  Defaults are those of the TL;DR recipe (Huang et al. 2024, arXiv:2403.17031).
  The critic is an output head: of a model of its own, the role "value", which
  may begin as the reward model; or on the policy's trunk.
  """

  critic: Literal["own", "shared"] = field(
    "own", "values of a model of its own, or of the policy's own trunk"
  )

  gamma: float = field(1.0, "discount of a token", low=0, high=1)
  lam: float = field(0.95, "lambda of generalised advantages", low=0, high=1)
  value_weight: float = field(0.1, "c, weight of the critic's loss", low=0)
  value_clip: float | None = field(
    0.2, "e, how far a value may move in an update; none = freely", low=0
  )
  penalty: Estimator = field(
    "k1", "k, which estimator of KL is taken from each token's reward"
  )
  terminal: Literal["last", "after"] = field(
    "after",
    "where the score is paid: with the last token, or one place after it, whose"
    " value is then learned, too",
  )
  whiten_rewards: bool = field(False, "rewards of variance 1, mean as it is")
  whiten: Literal["batch", "minibatch", "none"] = field(
    "batch", "of what advantages get mean 0 and variance 1"
  )
  unbiased: bool = field(
    True,
    "variances over n - 1, as TRL has them; off = over n, as Ziegler et al.",
  )

  @property
  def needs_reference(self) -> bool:
    return True

  @property
  def needs_critic(self) -> bool:
    return self.critic == "own"

  def credit(self, batch: Batch) -> Batch:
    """Rewards, advantages and returns of every token."""
    mask_BT, value_BT = batch["mask_BT"], batch["old_value_BT"]
    reaches_BT, ends_BT = _until(mask_BT, self.terminal)
    taken_BT = penalised(batch, self.penalty)
    reward_BT = taken_BT + jnp.where(ends_BT, batch["score_B"][:, None], 0)
    out = {**batch, "value_mask_BT": reaches_BT}
    out["non_score_reward_B"] = taken_BT.sum(-1)
    out["rlhf_reward_B"] = reward_BT.sum(-1)
    whiten = lambda x_BT, mask_BT, shift: returns.whiten(
      x_BT, mask_BT, shift=shift, unbiased=self.unbiased
    )
    if self.whiten_rewards:
      reward_BT = whiten(reward_BT, reaches_BT, False)
    advantage_BT = returns.gae(
      reward_BT, value_BT, reaches_BT, self.gamma, self.lam
    )
    out["return_BT"] = jnp.where(reaches_BT, advantage_BT + value_BT, 0)
    if self.whiten == "batch":
      advantage_BT = whiten(advantage_BT, mask_BT, True)
    out["advantage_BT"] = jnp.where(mask_BT, advantage_BT, 0)
    return out

  def weigh(self, batch: Batch) -> Batch:
    """Weights of a minibatch's tokens, for the policy and for the critic."""
    out = dict(super().weigh(batch))
    if self.whiten == "minibatch":
      out["advantage_BT"] = returns.whiten(
        batch["advantage_BT"], batch["mask_BT"], unbiased=self.unbiased
      )
    out["value_weight_BT"] = weights.token_mean(batch["value_mask_BT"])
    return out

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The policy's loss and the critic's, without dropout."""
    del key
    scores = forward["policy"](roles["policy"], batch, entropy=True)
    loss, metrics = self.of_scores(scores, batch)
    critic = scores
    if self.needs_critic:
      critic = forward["value"](roles["value"], batch)
    if critic.output_BTO is None:
      raise ValueError("--model.outputs=0: PPO's critic needs 1")
    error, more = self.of_values(critic.output_BTO[..., 0], batch)
    return loss + self.value_weight * error, metrics | more

  def of_values(
    self, value_BT: jax.Array, batch: Batch
  ) -> tuple[jax.Array, Metrics]:
    """The critic's loss, half a squared error, clipped."""
    weight_BT, mask_BT = batch["value_weight_BT"], batch["value_mask_BT"]
    return_BT, old_BT = batch["return_BT"], batch["old_value_BT"]
    error_BT = near_BT = (value_BT - return_BT) ** 2
    if self.value_clip is not None:
      e = self.value_clip
      moved_BT = jnp.clip(value_BT, old_BT - e, old_BT + e)
      near_BT = (moved_BT - return_BT) ** 2
    loss = 0.5 * (weight_BT * jnp.maximum(error_BT, near_BT)).sum()
    stopped = jax.lax.stop_gradient
    return loss, {
      "value_loss": Mean.sum(stopped(loss)),
      "value": Mean.of(stopped(value_BT), mask_BT),
      "value_error": Mean.of(stopped(error_BT), mask_BT),
      "value_clipped": Mean.of(
        (near_BT > error_BT).astype(value_BT.dtype), mask_BT
      ),
      "return": Mean.of(return_BT, mask_BT),
      "return_variance": Variance.of(return_BT, mask_BT),
    }


def penalised(batch: Batch, estimator: Estimator) -> jax.Array:
  """-beta k of each token, [B, T]; 0 where none was drawn."""
  mask_BT = batch["mask_BT"]
  moved_BT = jnp.where(mask_BT, batch["old_logp_BT"] - batch["ref_logp_BT"], 0)
  return -batch["beta_B"][:, None] * estimate(moved_BT, estimator)


def _until(mask_BT: jax.Array, terminal: str) -> tuple[jax.Array, jax.Array]:
  """Where a completion's values count, and where its score is paid.

  "after": the first place after the last token, if the row has one.
  """
  T = mask_BT.shape[1]
  places_T = jnp.arange(T)
  last_B1 = jnp.where(mask_BT, places_T, -1).max(-1, keepdims=True)
  there_B1 = last_B1 >= 0
  if terminal == "after":
    last_B1 = jnp.minimum(last_B1 + 1, T - 1)
  ends_BT = there_B1 & (places_T == last_B1)
  return mask_BT | ends_BT, ends_BT
