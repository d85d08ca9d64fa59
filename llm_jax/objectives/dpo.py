"""Direct preference optimisation and its kin: losses of a pair's margin.

With log-ratios c = log pi(y_w) - log ref(y_w) of the chosen completion and r,
likewise, of the rejected one, each is a function of the margin

  m = g(c) - g(r),  g(x) = x, or f'(e^x) of another divergence than reverse KL

Dimension key: Q pairs; 2 = (chosen, rejected).
"""

import abc
import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.objectives.pairwise import Pairs, Pairwise, Terms

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


@dataclasses.dataclass(frozen=True)
class Referenced(Pairwise):
  """A loss of how far the policy has moved from a reference."""

  beta: float = field(0.1, "strength of the pull to the reference", low=0)
  logp: Literal["sum", "mean"] = field(
    "sum", "of a completion's log-ratios: the sum over tokens, or the mean"
  )
  reference_free: bool = field(False, "leave the reference out, as if flat")

  def __post_init__(self) -> None:
    more_than_zero(self, "beta")

  @property
  def needs_reference(self) -> bool:
    return not self.reference_free

  def ratio(self, pairs: Pairs) -> jax.Array:
    """Log pi - log ref of completions, Q2."""
    if self.reference_free:
      return pairs.policy_Q2
    return pairs.policy_Q2 - jax.lax.stop_gradient(pairs.reference_Q2)

  def each(self, x_Q2: jax.Array, pairs: Pairs) -> jax.Array:
    """X of completions, or x a token."""
    if self.logp == "mean":
      return x_Q2 / jnp.maximum(pairs.length_Q2, 1)
    return x_Q2


@dataclasses.dataclass(frozen=True)
class OnMargin(Referenced):
  """A loss of the margin alone, with any f-divergence.

  The implicit reward is beta f'(pi / ref). f-DPO: Wang et al. 2023,
  arXiv:2309.16240: f'(u), up to a constant, is
  reverse KL log u; forward KL 1 - 1/u; Jensen-Shannon log(2u / (1 + u));
  alpha (1 - u^-alpha) / alpha, from reverse KL (0) to forward KL (1).
  """

  divergence: Divergence = field("reverse_kl", "what pulls to the reference")
  alpha: float = field(0.5, "of divergence alpha", low=0, high=1)

  @abc.abstractmethod
  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    """Loss of each pair."""

  def terms(self, pairs: Pairs) -> Terms:
    x_Q2 = derivative(self.divergence, self.ratio(pairs), self.alpha)
    score_Q2 = self.each(x_Q2, pairs)
    loss_Q = self.of_margin(score_Q2[:, 0] - score_Q2[:, 1])
    return Terms(loss_Q, self.beta * score_Q2)


@dataclasses.dataclass(frozen=True)
class DPO(OnMargin):
  """Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

    loss = -(1 - e) log sigmoid(x) - e log sigmoid(-x),
    x = beta m - offset * margin

  With smoothing e it is conservative DPO (Mitchell 2023, "A note on DPO with
  noisy preferences"). With `logp="mean"` it is length-normalised
  (Tulu 3, arXiv:2411.15124; beta 5 there). With an offset, of the margin that
  the data gives, it is ODPO (arXiv:2402.10571, eq. 7; alpha there).
  """

  smoothing: float = field(
    0.0, "share of pairs taken to be the wrong way round", low=0, high=0.5
  )
  offset: float = field(
    0.0, "by how many of the data's margins a chosen reward must win", low=0
  )

  def terms(self, pairs: Pairs) -> Terms:
    terms = super().terms(pairs)
    if not self.offset:
      return terms
    if pairs.margin_Q is None:
      raise ValueError(
        f"--objective.offset={self.offset}: the data gives no margins"
      )
    x_Q = terms.reward_Q2[:, 0] - terms.reward_Q2[:, 1]
    x_Q = x_Q - self.offset * pairs.margin_Q
    return terms._replace(loss_Q=smoothed(x_Q, self.smoothing))

  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    return smoothed(self.beta * margin_Q, self.smoothing)


@dataclasses.dataclass(frozen=True)
class RobustDPO(OnMargin):
  """Unbiased under flipped labels. arXiv:2403.00409.

  loss = (-(1 - e) log sigmoid(beta m) + e log sigmoid(-beta m)) / (1 - 2 e)
  """

  noise: float = field(0.1, "share of labels that are flipped", low=0, high=0.5)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.noise == 0.5:
      raise ValueError("--objective.noise=0.5: must be less than 0.5")

  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    x_Q, e = self.beta * margin_Q, self.noise
    clean_Q, flipped_Q = jax.nn.log_sigmoid(x_Q), jax.nn.log_sigmoid(-x_Q)
    return (e * flipped_Q - (1 - e) * clean_Q) / (1 - 2 * e)


@dataclasses.dataclass(frozen=True)
class Hinge(OnMargin):
  """SLiC's loss on log-ratios. arXiv:2305.10425, 2309.06657.

  loss = max(0, 1 - beta m)
  """

  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    return jax.nn.relu(1 - self.beta * margin_Q)


@dataclasses.dataclass(frozen=True)
class IPO(OnMargin):
  """Identity preference optimisation. arXiv:2310.12036, eq. 17.

    loss = (m - 1 / (2 beta))^2,  beta is the paper's tau

  Differs from the paper's text: log-ratios are means over tokens, as its
  authors ran it; `logp="sum"` is the text.
  """

  logp: Literal["sum", "mean"] = field(
    "mean", "of a completion's log-ratios: the sum over tokens, or the mean"
  )

  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    return (margin_Q - 1 / (2 * self.beta)) ** 2


@dataclasses.dataclass(frozen=True)
class EXO(OnMargin):
  """Reverse KL to the preferences themselves. arXiv:2402.00856, eq. 16.

  loss = p log(p / (1 - e)) + (1 - p) log((1 - p) / e),  p = sigmoid(beta m)
  """

  smoothing: float = field(
    1e-3, "share of pairs taken to be the wrong way round", low=0, high=0.5
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    more_than_zero(self, "smoothing")

  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    x_Q, e = self.beta * margin_Q, self.smoothing
    kl = lambda x, q: jax.nn.sigmoid(x) * (jax.nn.log_sigmoid(x) - jnp.log(q))
    return kl(x_Q, 1 - e) + kl(-x_Q, e)


@dataclasses.dataclass(frozen=True)
class DiscoPOP(OnMargin):
  """A loss found by a language model. arXiv:2406.08414, eq. 5.

  loss = (1 - s) (-log sigmoid(x)) + s exp(-x),
  x = beta m,  s = sigmoid(x / temperature)
  """

  temperature: float = field(
    0.05, "how suddenly one loss gives way to the other", low=1e-3, high=0.99
  )

  def of_margin(self, margin_Q: jax.Array) -> jax.Array:
    x_Q = self.beta * margin_Q
    gate_Q = x_Q / self.temperature
    # The product in logarithms: e^-x alone overflows where s is nothing.
    exponential_Q = jnp.exp(jax.nn.log_sigmoid(gate_Q) - x_Q)
    logistic_Q = -jax.nn.log_sigmoid(x_Q) * jax.nn.sigmoid(-gate_Q)
    return logistic_Q + exponential_Q


def derivative(
  divergence: Divergence, ratio: jax.Array, alpha: float
) -> jax.Array:
  """f'(e^ratio), 0 where the ratio is 0."""
  if divergence == "forward_kl":
    return 1 - _exp(-ratio)
  if divergence == "js":
    return jnp.log(2.0) + jax.nn.log_sigmoid(ratio)
  if divergence == "alpha" and alpha > 0:
    return (1 - _exp(-alpha * ratio)) / alpha
  return ratio


def smoothed(x_Q: jax.Array, smoothing: float) -> jax.Array:
  """Cross-entropy of sigmoid(x) with 1 - smoothing, in nats."""
  clean_Q = -jax.nn.log_sigmoid(x_Q)
  if not smoothing:
    return clean_Q
  return (1 - smoothing) * clean_Q - smoothing * jax.nn.log_sigmoid(-x_Q)


def more_than_zero(settings: Pairwise, *names: str) -> None:
  """Refuses settings that are 0."""
  for name in names:
    if not getattr(settings, name) > 0:
      raise ValueError(
        f"--objective.{name}={getattr(settings, name)}: must be more than 0"
      )


def _exp(x: jax.Array) -> jax.Array:
  """e^x, going on as its tangent where it would overflow."""
  top = math.log(float(jnp.finfo(x.dtype).max)) / 3
  return jnp.exp(jnp.minimum(x, top)) * (1 + jax.nn.relu(x - top))
