"""Attention in plain arrays, for every dtype and device.

Dimension key: B sequences; T query positions; S key positions; N query heads;
K key/value heads; G query heads per key/value head; H head width.
"""

import jax
import jax.numpy as jnp


def attention(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_B1TS: jax.Array,
) -> jax.Array:
  """softmax(q k^T / sqrt(H)) v. arXiv:1706.03762, eq. 1.

  The softmax is in float32 or wider, so float64 stays float64
  (`jax.nn.dot_product_attention` computes its softmax in float32 always). A
  query that may see nothing averages all values.

  Args:
    q_BTNH: queries; query heads n G .. n G + G - 1 share key/value head n.
    k_BSKH: keys.
    v_BSKH: values.
    mask_B1TS: True where a query sees a key; B may be 1.

  Returns:
    o_BTNH, in the dtype of the queries.
  """
  B, T, N, H = q_BTNH.shape
  S, K = k_BSKH.shape[1:3]
  wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
  q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
  logits_BKGTS = jnp.einsum(
    "BTKGH,BSKH->BKGTS", q_BKGTH, k_BSKH, preferred_element_type=wide
  )
  floor = jnp.asarray(-0.7 * float(jnp.finfo(jnp.float32).max), wide)
  logits_BKGTS = jnp.where(mask_B1TS[:, :, None], logits_BKGTS, floor)
  p_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(q_BTNH.dtype)
  o_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", p_BKGTS, v_BSKH)
  return o_BTKGH.reshape(B, T, N, H)


def causal_mask(length: int, window: int | None = None) -> jax.Array:
  """mask_11TS: a query sees itself and earlier keys, `window` in all."""
  t, s = jnp.arange(length)[:, None], jnp.arange(length)[None]
  mask_TS = s <= t
  if window is not None:
    mask_TS &= t - s < window
  return mask_TS[None, None]
