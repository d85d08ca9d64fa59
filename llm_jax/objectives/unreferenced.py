"""Losses on pairs that need no reference, and the plain NLL of chosen ones.

Dimension key: Q pairs; 2 = (chosen, rejected).
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch
from llm_jax.objectives.dpo import DPO, more_than_zero, smoothed
from llm_jax.objectives.pairwise import Pairs, Pairwise, Terms


@dataclasses.dataclass(frozen=True)
class Unreferenced(Pairwise):
  """A loss of the policy's own log-probabilities."""

  @property
  def needs_reference(self) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class SFT(Unreferenced):
  """Negative log-likelihood of chosen completions, a mean over their tokens.

  Of use in a `Sum`; by itself it is `Causal` on the chosen halves.
  """

  of: Literal["completion", "all"] = field(
    "completion", "which tokens of the chosen rows; all = the prompt's too"
  )

  @property
  def needs_prompts(self) -> bool:
    return self.of == "all"

  def terms(self, pairs: Pairs) -> Terms:
    return Terms(nll_of(pairs, self.of), pairs.policy_Q2)


@dataclasses.dataclass(frozen=True)
class SimPO(Unreferenced):
  """Simple preference optimisation. arXiv:2405.14734, eq. 6.

  loss = -log sigmoid(beta (mean log pi(y_w) - mean log pi(y_l)) - gamma)
  """

  beta: float = field(2.0, "scale of the log-probability a token", low=0)
  gamma: float = field(1.0, "by how much the chosen's reward must win", low=0)

  def __post_init__(self) -> None:
    more_than_zero(self, "beta")

  def terms(self, pairs: Pairs) -> Terms:
    reward_Q2 = self.beta * pairs.mean_Q2
    margin_Q = reward_Q2[:, 0] - reward_Q2[:, 1]
    return Terms(smoothed(margin_Q - self.gamma, 0), reward_Q2)


@dataclasses.dataclass(frozen=True)
class CPO(Unreferenced):
  """Contrastive preference optimisation. arXiv:2401.08417, eq. 3.

    loss = -log sigmoid(beta (log pi(y_w) - log pi(y_l))) + nll NLL(y_w)

  with label smoothing as in `DPO`, and NLL a mean over tokens.
  """

  beta: float = field(0.1, "scale of log-probabilities", low=0)
  nll: float = field(1.0, "weight of the chosen's NLL", low=0)
  smoothing: float = field(
    0.0, "share of pairs taken to be the wrong way round", low=0, high=0.5
  )

  def __post_init__(self) -> None:
    more_than_zero(self, "beta")

  def terms(self, pairs: Pairs) -> Terms:
    reward_Q2 = self.beta * pairs.policy_Q2
    loss_Q = smoothed(reward_Q2[:, 0] - reward_Q2[:, 1], self.smoothing)
    return Terms(loss_Q + self.nll * pairs.nll_Q, reward_Q2)


@dataclasses.dataclass(frozen=True)
class ORPO(Unreferenced):
  """Odds ratio preference optimisation. arXiv:2403.07691, eqs. 6 and 7.

  loss = NLL(y_w) - beta log sigmoid(log odds(y_w) - log odds(y_l)),
  log odds(y) = a - log(1 - e^a), a = mean log pi(y);  beta is lambda there
  """

  beta: float = field(0.1, "weight of the odds ratio", low=0)
  nll_of: Literal["completion", "all"] = field(
    "all", "tokens of the NLL; all = the prompt's too, as the authors' code"
  )

  @property
  def needs_prompts(self) -> bool:
    return self.nll_of == "all"

  def terms(self, pairs: Pairs) -> Terms:
    a_Q2 = pairs.mean_Q2
    odds_Q2 = a_Q2 - log1mexp(a_Q2)
    loss_Q = self.beta * smoothed(odds_Q2[:, 0] - odds_Q2[:, 1], 0)
    return Terms(nll_of(pairs, self.nll_of) + loss_Q, self.beta * a_Q2)


@dataclasses.dataclass(frozen=True)
class Sum(Pairwise):
  """A weighted sum of losses on the same pairs; rewards are the first's.

  DPO and SFT, the default: arXiv:2404.19733, 2405.16436.
  """

  losses: tuple[Pairwise, ...] = (DPO(), SFT())
  weights: tuple[float, ...] = field((1.0, 1.0), "of the losses, in order")

  def __post_init__(self) -> None:
    if not self.losses or len(self.losses) != len(self.weights):
      raise ValueError(
        f"--objective.weights={','.join(map(str, self.weights))}: must be as"
        f" many numbers as there are losses, {len(self.losses)}"
      )

  @property
  def needs_reference(self) -> bool:
    return any(loss.needs_reference for loss in self.losses)

  @property
  def needs_policy(self) -> bool:
    return any(loss.needs_policy for loss in self.losses)

  @property
  def needs_prompts(self) -> bool:
    return any(loss.needs_prompts for loss in self.losses)

  def columns(self, batch: Batch) -> dict[str, jax.Array]:
    out: dict[str, jax.Array] = {}
    for i, loss in enumerate(self.losses):
      out |= {f"{i}/{k}": v for k, v in loss.columns(batch).items()}
    return out

  def terms(self, pairs: Pairs) -> Terms:
    terms = []
    for i, loss in enumerate(self.losses):
      columns_Q2 = {
        name.removeprefix(f"{i}/"): x
        for name, x in pairs.columns_Q2.items()
        if name.startswith(f"{i}/")
      }
      terms.append(loss.terms(pairs._replace(columns_Q2=columns_Q2)))
    weighed = zip(self.weights, terms, strict=True)
    loss_Q = sum(weight * t.loss_Q for weight, t in weighed)
    return Terms(jnp.asarray(loss_Q), terms[0].reward_Q2)


def nll_of(pairs: Pairs, of: str) -> jax.Array:
  """NLL of the chosen completion, or of its prompt too."""
  nll_Q = pairs.nll_Q if of == "completion" else pairs.nll_all_Q
  if nll_Q is None:
    raise ValueError(
      "the loss is to train prompts too (all), and the data does not mark them"
    )
  return nll_Q


def log1mexp(x: jax.Array) -> jax.Array:
  """log(1 - e^x) for x < 0, exact at both ends; x >= 0 counts as just below."""
  x = jnp.minimum(x, -float(jnp.finfo(x.dtype).tiny))
  near = x > -math.log(2)
  close = jnp.log(-jnp.expm1(jnp.where(near, x, -1)))
  return jnp.where(near, close, jnp.log1p(-jnp.exp(jnp.where(near, -1, x))))
