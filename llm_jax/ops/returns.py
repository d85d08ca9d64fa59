"""From rewards to advantages.

A trajectory ends after its last unmasked action, wherever it stands in its
row: nothing is worth anything beyond.

Dimension key: B trajectories; T actions; K trajectories from one prompt;
G = B / K prompts.
"""

import jax
import jax.numpy as jnp


def gae(
  reward_BT: jax.Array,
  value_BT: jax.Array,
  mask_BT: jax.Array,
  gamma: float,
  lam: float,
) -> jax.Array:
  """Generalised advantage estimation, [B, T]; 0 where masked.

    delta_t = r_t + gamma v_{t+1} - v_t
    A_t     = sum over l >= 0 of (gamma lam)^l delta_{t+l}

  Schulman et al. 2016, arXiv:1506.02438, eq. 16. With lam = 1 it is the
  return less the value. Rewards and values under the mask are not looked at.

  Args:
    reward_BT: of each action.
    value_BT: of the state before each action.
    mask_BT: bool; the actions of a row follow one another.
    gamma: discount of an action.
    lam: of the exponential mean.
  """
  keep_BT = mask_BT.astype(value_BT.dtype)

  def back(later: tuple, now: tuple) -> tuple:
    value_B, advantage_B = later
    r_B, v_B, m_B = now
    delta_B = r_B + gamma * value_B - v_B
    # A select, not a product: what is masked may not be finite.
    new_B = jnp.where(m_B > 0, delta_B + gamma * lam * advantage_B, 0)
    return (jnp.where(m_B > 0, v_B, 0), new_B), new_B

  zero_B = jnp.zeros_like(value_BT[:, 0])
  over = (reward_BT.T, value_BT.T, keep_BT.T)
  return jax.lax.scan(back, (zero_B, zero_B), over, reverse=True)[1].T


def whiten(
  x_BT: jax.Array,
  mask_BT: jax.Array,
  *,
  shift: bool = True,
  unbiased: bool = False,
) -> jax.Array:
  """Unit variance over unmasked places, 0 at the masked ones.

    (x - mean) / sqrt(var + 1e-8)

  Args:
    x_BT: numbers of any shape.
    mask_BT: bool, which of them count.
    shift: to mean 0; else the mean stays what it is.
    unbiased: divide by n - 1, as TRL does, not by n, as Ziegler et al.
  """
  x_BT = jnp.where(mask_BT, x_BT, 0)
  n = mask_BT.sum().astype(x_BT.dtype)
  mean = x_BT.sum() / jnp.maximum(n, 1)
  square = jnp.where(mask_BT, (x_BT - mean) ** 2, 0).sum()
  var = square / jnp.maximum(n - unbiased, 1)
  out_BT = (x_BT - mean) * jax.lax.rsqrt(var + 1e-8)
  return jnp.where(mask_BT, out_BT if shift else out_BT + mean, 0)


def over_group(
  score_B: jax.Array, group: int, *, scale: bool, epsilon: float = 1e-4
) -> jax.Array:
  """How much better than the mean of its prompt's completions, [B].

    A = (s - mean) / (std + epsilon),  std over n - 1

  GRPO, arXiv:2402.03300, section 4.1.2.

  Args:
    score_B: those of one prompt stand side by side.
    group: K.
    scale: divide by the standard deviation; Dr. GRPO (arXiv:2503.20783) does
      not, as it gives more weight to prompts that are too easy or too hard.
    epsilon: keeps groups of one score at 0.
  """
  score_GK = _grouped(score_B, group)
  out_GK = score_GK - score_GK.mean(1, keepdims=True)
  if scale:
    out_GK = out_GK / (score_GK.std(1, ddof=1, keepdims=True) + epsilon)
  return out_GK.reshape(-1)


def leave_one_out(score_B: jax.Array, group: int) -> jax.Array:
  """How much better than the mean of its prompt's *other* completions, [B].

  RLOO, arXiv:2402.14740, eq. 8: A = s_k - 1 / (K - 1) sum over j != k of s_j.
  """
  score_GK = _grouped(score_B, group)
  others_GK = score_GK.sum(1, keepdims=True) - score_GK
  return (score_GK - others_GK / (group - 1)).reshape(-1)


def _grouped(score_B: jax.Array, group: int) -> jax.Array:
  if group < 2 or score_B.shape[0] % group:
    raise ValueError(
      f"{score_B.shape[0]} scores: not a number of groups of {group}, which"
      " must be at least 2"
    )
  return score_B.reshape(-1, group)
