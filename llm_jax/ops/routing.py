"""Which experts a token goes to, and how even that is.

Dimension key: B sequences; T positions; M experts; C experts of a token.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Routing(NamedTuple):
  """How rows went to experts in each layer, see `tell`; of one, without L."""

  balance_LB: jax.Array
  z_LB: jax.Array
  entropy_LB: jax.Array  # nats
  load_LBM: jax.Array  # tokens that an expert got


def choose(
  logits_BTM: jax.Array, per_token: int, normalise: bool
) -> tuple[jax.Array, jax.Array]:
  """Weights and numbers of the experts with most probability, [B, T, C].

  Args:
    logits_BTM: of the router.
    per_token: C.
    normalise: a token's weights are made to sum to 1, which is a softmax over
      the chosen (Mixtral, arXiv:2401.04088, section 2.1); else they are the
      probabilities among all (Switch, arXiv:2101.03961, eq. 2).
  """
  p_BTM = jax.nn.softmax(logits_BTM)
  weight_BTC, choice_BTC = jax.lax.top_k(p_BTM, per_token)
  if normalise:
    weight_BTC /= weight_BTC.sum(-1, keepdims=True)
  return weight_BTC, choice_BTC


def tell(
  logits_BTM: jax.Array, choice_BTC: jax.Array, real_BT: jax.Array
) -> Routing:
  """How even one layer's routing is, row by row.

    balance = M sum_m f_m P_m      1 when even, M when all go to one

  with f_m the share of the row's choices that fell on expert m, which has no
  gradient, and P_m the mean probability of m: Switch, arXiv:2101.03961, eq. 4
  to 6, for several choices as in GShard. Over the tokens of each row, as
  DeepSeek-V2's over those of a sequence (arXiv:2405.04434, section 2.2.3).
  Differs from Switch, which takes f and P over a whole batch: that is a product
  of two means, no sum over microbatches, and lets a row be uneven by itself.

    z = mean log(sum_m exp(logit_m))^2     (ST-MoE, arXiv:2202.08906, eq. 5)

  Args:
    logits_BTM: of the router.
    choice_BTC: see `choose`.
    real_BT: tokens that count, bool.
  """
  M, C = logits_BTM.shape[-1], choice_BTC.shape[-1]
  real_BT1 = real_BT[..., None].astype(logits_BTM.dtype)
  count_B = jnp.maximum(real_BT1.sum((1, 2)), 1)
  p_BTM, logp_BTM = jax.nn.softmax(logits_BTM), jax.nn.log_softmax(logits_BTM)
  chosen_BTM = jax.nn.one_hot(choice_BTC, M, dtype=logits_BTM.dtype).sum(2)
  load_BM = (chosen_BTM * real_BT1).sum(1)
  mean_BM = (p_BTM * real_BT1).sum(1) / count_B[:, None]
  logz_BT = jax.nn.logsumexp(logits_BTM, -1)
  mean = lambda x_BT: (x_BT * real_BT1[..., 0]).sum(1) / count_B
  return Routing(
    balance_LB=M * (load_BM * mean_BM).sum(-1) / (C * count_B),
    z_LB=mean(logz_BT**2),
    entropy_LB=mean(-(p_BTM * logp_BTM).sum(-1)),
    load_LBM=load_BM,
  )


def real_tokens(batch: Mapping[str, Any]) -> jax.Array:
  """Tokens that are no padding, as far as a batch tells, bool [B, T].

  Where no segments say so, a row ends with the last target that counts.
  """
  if "segment_BT" in batch:
    return batch["segment_BT"] > 0
  if "mask_BT" not in batch:
    return jnp.ones(batch["tokens_BT"].shape, bool)
  mask_BT = batch["mask_BT"]
  return jax.lax.cummax(mask_BT.astype(jnp.int8), 1, reverse=True) > 0
