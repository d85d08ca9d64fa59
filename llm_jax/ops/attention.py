"""Attention in plain arrays, for every dtype and device.

Dimension key: B sequences; T query positions; S key positions; N query heads;
K key/value heads; G query heads per key/value head; M = G T, the queries of a
key/value head; H head width.
"""

import functools

import jax
import jax.numpy as jnp

from llm_jax.ops.masks import EVERYONE

BLOCK = 128  # queries taken at once by `causal_attention`


def attention(
  q_BTNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  mask_B1TS: jax.Array,
  *,
  softcap: float | None = None,
  bias_BNTS: jax.Array | None = None,
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
    softcap: logits are softcap tanh(logits / softcap). arXiv:2408.00118, eq. 1.
    bias_BNTS: added to the logits after that.

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
  logits_BKGTS = _capped(logits_BKGTS, softcap)
  if bias_BNTS is not None:
    logits_BKGTS += bias_BNTS.astype(wide).reshape(-1, K, N // K, T, S)
  floor = jnp.asarray(-0.7 * float(jnp.finfo(jnp.float32).max), wide)
  logits_BKGTS = jnp.where(mask_B1TS[:, :, None], logits_BKGTS, floor)
  p_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(q_BTNH.dtype)
  o_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", p_BKGTS, v_BSKH)
  return o_BTKGH.reshape(B, T, N, H)


def causal_mask(length: int, window: int | None = None) -> jax.Array:
  """mask_11TS: a query sees itself and earlier keys, `window` in all."""
  return _visible(0, length, 0, length, window)[None, None]


def _capped(logits: jax.Array, softcap: float | None) -> jax.Array:
  return softcap * jnp.tanh(logits / softcap) if softcap else logits


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 5))
def causal_attention(
  q_BTNH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  window: int | None = None,
  segment_BT: jax.Array | None = None,
  softcap: float | None = None,
) -> jax.Array:
  """`attention` under `causal_mask`, a block of queries at a time.

  With the document of each position in `segment_BT` a query sees only its own,
  and keys that are `masks.EVERYONE`'s; with a window, too, only as far as it.

  Keys that no query of a block sees are never touched, which saves near half
  of the work. The backward pass makes the probabilities again from the
  log-normalisers (arXiv:2205.14135, algorithm 4), so that memory grows with T,
  not T^2.
  """
  return _causal_forward(q_BTNH, k_BTKH, v_BTKH, window, segment_BT, softcap)[0]


def _causal_forward(
  q_BTNH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  window: int | None,
  segment_BT: jax.Array | None,
  softcap: float | None,
) -> tuple:
  q_BKGTH = _grouped(q_BTNH * q_BTNH.shape[-1] ** -0.5, k_BTKH.shape[2])
  v_BKSH = v_BTKH.swapaxes(1, 2)
  k_BKHS = k_BTKH.transpose(0, 2, 3, 1)
  outs, logz = [], []
  for a, b, first in _blocks(q_BTNH.shape[1], window):
    seen_MS = _seen(q_BKGTH.shape[2], a, b, first, window, segment_BT)
    l_BKMS = _logits(_rows(q_BKGTH, a, b), k_BKHS[..., first:b])
    l_BKMS = _capped(l_BKMS, softcap)
    top_BKM1 = jnp.where(seen_MS, l_BKMS, -jnp.inf).max(-1, keepdims=True)
    e_BKMS = jnp.where(seen_MS, jnp.exp(l_BKMS - top_BKM1), 0)
    sum_BKM1 = e_BKMS.sum(-1, keepdims=True)
    o_BKMH = e_BKMS.astype(v_BKSH.dtype) @ v_BKSH[:, :, first:b]
    outs.append(_unrow(o_BKMH / sum_BKM1.astype(o_BKMH.dtype), b - a))
    logz.append(_unrow(top_BKM1 + jnp.log(sum_BKM1), b - a))
  o_BKGTH = jnp.concatenate(outs, 3)
  logz_BKGT1 = jnp.concatenate(logz, 3)
  saved = q_BKGTH, k_BTKH, v_BTKH, o_BKGTH, logz_BKGT1, segment_BT
  return _ungrouped(o_BKGTH), saved


def _causal_backward(
  window: int | None, softcap: float | None, saved: tuple, g_BTNH: jax.Array
):
  q_BKGTH, k_BTKH, v_BTKH, o_BKGTH, logz_BKGT1, segment_BT = saved
  G, T, H = q_BKGTH.shape[2:]
  g_BKGTH = _grouped(g_BTNH, k_BTKH.shape[2])
  wide = logz_BKGT1.dtype
  mean_BKGT1 = (g_BKGTH * o_BKGTH).astype(wide).sum(-1, keepdims=True)
  k_BKSH = k_BTKH.swapaxes(1, 2)
  k_BKHS, v_BKHS = (x.transpose(0, 2, 3, 1) for x in (k_BTKH, v_BTKH))
  dq, dk_BKHS, dv_BKHS = [], jnp.zeros_like(k_BKHS), jnp.zeros_like(v_BKHS)
  for a, b, first in _blocks(T, window):
    q_BKMH, g_BKMH = _rows(q_BKGTH, a, b), _rows(g_BKGTH, a, b)
    l_BKMS = _capped(_logits(q_BKMH, k_BKHS[..., first:b]), softcap)
    p_BKMS = jnp.exp(l_BKMS - _rows(logz_BKGT1, a, b))
    seen_MS = _seen(G, a, b, first, window, segment_BT)
    p_BKMS = jnp.where(seen_MS, p_BKMS, 0)
    dp_BKMS = _logits(g_BKMH, v_BKHS[..., first:b])
    dl_BKMS = p_BKMS * (dp_BKMS - _rows(mean_BKGT1, a, b))
    if softcap:  # d tanh = 1 - tanh^2; of what is not seen p is 0
      dl_BKMS *= 1 - jnp.square(l_BKMS / softcap)
    p_BKMS, dl_BKMS = (x.astype(q_BKMH.dtype) for x in (p_BKMS, dl_BKMS))
    dq.append(_unrow(dl_BKMS @ k_BKSH[:, :, first:b], b - a))
    # The keys' side as [H, M] @ [M, S]: no wide operand is transposed.
    dk_BKHS += _place(q_BKMH.swapaxes(2, 3) @ dl_BKMS, first, T)
    dv_BKHS += _place(g_BKMH.swapaxes(2, 3) @ p_BKMS, first, T)
  dq_BTNH = _ungrouped(jnp.concatenate(dq, 3)) * H**-0.5
  dk_BTKH, dv_BTKH = (x.transpose(0, 3, 1, 2) for x in (dk_BKHS, dv_BKHS))
  return dq_BTNH, dk_BTKH, dv_BTKH, None


causal_attention.defvjp(_causal_forward, _causal_backward)


def _blocks(length: int, window: int | None) -> list[tuple[int, int, int]]:
  """(first query, last query + 1, first key that any of them sees)."""
  starts = range(0, length, BLOCK)
  reach = length if window is None else window - 1
  return [(a, min(a + BLOCK, length), max(a - reach, 0)) for a in starts]


def _visible(
  a: int, b: int, first: int, last: int, window: int | None
) -> jax.Array:
  """mask_TS of queries a..b and keys first..last."""
  t, s = jnp.arange(a, b)[:, None], jnp.arange(first, last)[None]
  return (s <= t) if window is None else (s <= t) & (t - s < window)


def _seen(
  G: int,
  a: int,
  b: int,
  first: int,
  window: int | None,
  segment_BT: jax.Array | None,
) -> jax.Array:
  """[M, S], or [B, 1, M, S] where rows hold several documents."""
  seen_TS = _visible(a, b, first, b, window)
  if segment_BT is None:
    return jnp.tile(seen_TS, (G, 1))
  key_B1S = segment_BT[:, None, first:b]
  near_BTS = (segment_BT[:, a:b, None] == key_B1S) | (key_B1S == EVERYONE)
  return jnp.tile(seen_TS & near_BTS, (1, G, 1))[:, None]


def _logits(q_BKMH: jax.Array, k_BKHS: jax.Array) -> jax.Array:
  wide = jnp.promote_types(q_BKMH.dtype, jnp.float32)
  return jnp.matmul(q_BKMH, k_BKHS, preferred_element_type=wide)


def _grouped(x_BTNH: jax.Array, K: int) -> jax.Array:
  B, T, N, H = x_BTNH.shape
  return x_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)


def _ungrouped(x_BKGTH: jax.Array) -> jax.Array:
  B, K, G, T, H = x_BKGTH.shape
  return x_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)


def _rows(x_BKGTH: jax.Array, a: int, b: int) -> jax.Array:
  B, K, G, _, H = x_BKGTH.shape
  return x_BKGTH[:, :, :, a:b].reshape(B, K, G * (b - a), H)


def _unrow(x_BKMH: jax.Array, length: int) -> jax.Array:
  B, K, M, H = x_BKMH.shape
  return x_BKMH.reshape(B, K, M // length, length, H)


def _place(x_BKHS: jax.Array, first: int, length: int) -> jax.Array:
  after = length - first - x_BKHS.shape[-1]
  return jnp.pad(x_BKHS, ((0, 0), (0, 0), (0, 0), (first, after)))
