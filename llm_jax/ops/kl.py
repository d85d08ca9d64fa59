"""How far a policy has gone from a reference, and what that costs.

Estimators of KL(policy || reference) from tokens that the policy drew
(Schulman 2020, "Approximating KL divergence"), with

  d = log policy(token) - log reference(token)

Dimension key: any.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Estimator = Literal["k1", "k2", "k3"]


def estimate(difference: jax.Array, estimator: Estimator) -> jax.Array:
  """A number a token, in nats, whose mean is the KL.

  k1 = d                  unbiased, may be negative
  k2 = d^2 / 2            biased, small variance
  k3 = e^-d - 1 + d       unbiased, never negative

  As a *loss* only k2 has the gradient of the KL (k1's is zero in the mean,
  k3's is that of the reverse direction).
  """
  if estimator == "k1":
    return difference
  if estimator == "k2":
    return difference**2 / 2
  return jnp.expm1(-difference) + difference


def adapted(
  coefficient: float, kl: float, target: float, horizon: float, episodes: int
) -> float:
  """The coefficient after a batch, moved towards the target KL.

    beta <- beta (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon)

  Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

  Args:
    coefficient: beta.
    kl: of whole completions, mean over the batch, nats.
    target: nats.
    horizon: episodes in which it may change by a fifth.
    episodes: n, of this batch.
  """
  error = min(max(kl / target - 1, -0.2), 0.2)
  return coefficient * (1 + error * episodes / horizon)
