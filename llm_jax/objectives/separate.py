"""Losses that move chosen and rejected completions each on their own.

With c = log pi(y_w) - log ref(y_w) of the chosen completion and r, likewise,
of the rejected one; s is the logistic sigmoid.

Dimension key: B rows; Q pairs; 2 = (chosen, rejected).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch
from llm_jax.objectives.dpo import Referenced
from llm_jax.objectives.pairwise import by_pair, known, Pairs, Terms


@dataclasses.dataclass(frozen=True)
class NCA(Referenced):
  """Noise-contrastive alignment, on pairs. arXiv:2402.05369.

  loss = -log s(beta c) - 1/2 log s(-beta c) - 1/2 log s(-beta r)
  """

  def terms(self, pairs: Pairs) -> Terms:
    reward_Q2 = self.beta * self.each(self.ratio(pairs), pairs)
    up_Q = jax.nn.log_sigmoid(reward_Q2[:, 0])
    down_Q2 = jax.nn.log_sigmoid(-reward_Q2)
    return Terms(-up_Q - 0.5 * down_Q2.sum(-1), reward_Q2)


@dataclasses.dataclass(frozen=True)
class APO(Referenced):
  """Anchored preference optimisation. arXiv:2408.06266, eqs. 7 and 8.

  zero: loss = (1 - s(beta c)) + s(beta r)
  down: loss = s(beta c) + (1 - s(beta (c - r)))
  """

  anchor: Literal["zero", "down"] = field(
    "zero",
    "zero: chosen ones are better than what the model says by itself; down:"
    " worse, so that both must fall",
  )

  def terms(self, pairs: Pairs) -> Terms:
    reward_Q2 = self.beta * self.each(self.ratio(pairs), pairs)
    c_Q, r_Q = reward_Q2[:, 0], reward_Q2[:, 1]
    if self.anchor == "zero":
      loss_Q = jax.nn.sigmoid(-c_Q) + jax.nn.sigmoid(r_Q)
    else:
      loss_Q = jax.nn.sigmoid(c_Q) + jax.nn.sigmoid(r_Q - c_Q)
    return Terms(loss_Q, reward_Q2)


@dataclasses.dataclass(frozen=True)
class SPPO(Referenced):
  """Self-play, with preferences that are certain. arXiv:2405.00675, eq. 4.7.

  loss = (c - 1 / (2 beta))^2 + (r + 1 / (2 beta))^2,  1 / beta is eta
  """

  def terms(self, pairs: Pairs) -> Terms:
    x_Q2 = self.each(self.ratio(pairs), pairs)
    half = 0.5 / self.beta
    loss_Q = (x_Q2[:, 0] - half) ** 2 + (x_Q2[:, 1] + half) ** 2
    return Terms(loss_Q, self.beta * x_Q2)


@dataclasses.dataclass(frozen=True)
class BCO(Referenced):
  """Binary classifier optimisation, on pairs. arXiv:2404.04656.

    loss = -log s(beta c - d) - log s(d - beta r),  d = beta mean((c + r) / 2)

  Differs from the paper: d is the mean over this global batch, not a running
  mean over batches, for which a step has no place. It costs a forward without
  gradient or dropout; `shift="none"` has d = 0, and no such forward.
  """

  shift: Literal["batch", "none"] = field(
    "batch", "what rewards are compared with: their batch's mean, or zero"
  )

  @property
  def needs_policy(self) -> bool:
    return self.shift == "batch"

  def columns(self, batch: Batch) -> dict[str, jax.Array]:
    if self.shift == "none":
      return {}
    pairs = known(batch)
    x_Q2 = self.each(self.ratio(pairs), pairs)
    mean = (by_pair(batch["weight_B"]) * x_Q2).sum() / 2
    return {"bco_mean": jnp.full_like(batch["weight_B"], mean)}

  def terms(self, pairs: Pairs) -> Terms:
    reward_Q2 = self.beta * self.each(self.ratio(pairs), pairs)
    x_Q2 = reward_Q2
    if self.shift == "batch":
      x_Q2 = reward_Q2 - self.beta * pairs.columns_Q2["bco_mean"]
    c_Q, r_Q = x_Q2[:, 0], x_Q2[:, 1]
    loss_Q = -jax.nn.log_sigmoid(c_Q) - jax.nn.log_sigmoid(-r_Q)
    return Terms(loss_Q, reward_Q2)
