"""Multi-head, grouped and multi-query attention.

Dimension key: B sequences; T query positions; S key positions; D residual;
N query heads; K key/value heads; H head width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models import cache as cache_lib
from llm_jax.models import kernels
from llm_jax.models.config import TransformerConfig
from llm_jax.models.linear import Linear
from llm_jax.models.norms import Norm
from llm_jax.models.seeing import Context, Sight
from llm_jax.ops import attention as ops
from llm_jax.ops import positions


class Attention(nn.Module):
  """softmax(q k^T / sqrt(H)) v over earlier positions. arXiv:1706.03762, eq. 1.

  Grouped queries: arXiv:2305.13245. Query/key norm: arXiv:2302.05442. Where
  collection "adapters" holds `prefix_key` and `prefix_value`, every query sees
  them too (prefix tuning, arXiv:2101.00190).
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    context: Context,
    layer: int | jax.Array,
    cache: cache_lib.Cache | None,
  ) -> tuple[jax.Array, cache_lib.Cache | None]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    q_BTNH = heads(c, "query", "N", c.num_heads, x_BTD)
    k_BSKH = heads(c, "key", "K", c.K, x_BTD)
    v_BSKH = heads(c, "value", "K", c.K, x_BTD)
    whole = _sees_whole(c, layer)
    if context.whole.cos is not None:
      cos, sin = (
        _either(whole, x, y)
        for x, y in zip(context.whole[:2], _near(context)[:2], strict=True)
      )
      q_BTNH = positions.rotate(q_BTNH, cos, sin)
      k_BSKH = positions.rotate(k_BSKH, cos, sin)
    if c.attention_scale is not None:
      q_BTNH = q_BTNH * jnp.asarray(c.attention_scale * c.H**0.5, dtype)
    if cache is not None:
      cache, k_BSKH, v_BSKH = cache_lib.store(cache, layer, k_BSKH, v_BSKH)
    segment_BT = context.segment_BT
    kind = context.kind(c.sees) if cache is None else "cache"
    new_key = self._adapter("prefix_key", dtype)
    new_value = self._adapter("prefix_value", dtype)
    if new_key is not None and new_value is not None:
      segment_BT, kind = None, "other"
      k_BSKH, v_BSKH = _after(new_key, k_BSKH), _after(new_value, v_BSKH)

    def attend(window: int | None, mask_B1TS: jax.Array | None) -> jax.Array:
      if new_key is not None:
        mask_B1TS = _seeing(len(new_key), mask_B1TS, q_BTNH.shape[1], window)
      return kernels.attend(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        mask_B1TS,
        c,
        kind,
        window=window,
        segment_BT=segment_BT,
        bias_BNTS=context.bias_BNTS,
      )

    far = lambda: attend(None, context.whole.mask_B1TS)
    near = lambda: attend(c.window, _near(context).mask_B1TS)
    if isinstance(whole, bool):
      o_BTNH = far() if whole else near()
    else:  # layers of both kinds in one loop
      o_BTNH = jax.lax.cond(whole, far, near)
    return spoken(c, o_BTNH), cache

  def _adapter(self, name: str, dtype: jnp.dtype) -> jax.Array | None:
    found: jax.Array | None = self.get_variable("adapters", name)
    return None if found is None else found.astype(dtype)


def heads(
  config: TransformerConfig, name: str, letter: str, count: int, x_BTD: Any
) -> jax.Array:
  """Queries, keys or values of so many heads, [B, T, N, H].

  With `qk_norm` queries and keys are normalised, each head or all of a
  position's. Called in a module's `__call__`, whose parameters these are.
  """
  c = config
  y_BTNH = Linear(
    f"D{letter}H",
    (count, c.H),
    std=c.init_std,
    bias=c.qkv_bias,
    dtype=jnp.dtype(c.dtype),
    name=name,
  )(x_BTD)
  y_BTNH = axes.constrain(y_BTNH, f"BT{letter}H")
  if not c.qk_norm or name == "value":
    return y_BTNH
  suffix = "H" if c.qk_norm_over == "head" else f"{letter}H"
  norm = Norm(
    "rms", c.norm_eps, suffix, False, c.norm_from_one, name=f"{name}_norm"
  )
  return norm(y_BTNH)


def spoken(config: TransformerConfig, o_BTNH: jax.Array) -> jax.Array:
  """What heads found, as the residual stream is told, [B, T, D]."""
  c = config
  return Linear(
    "NHD",
    (c.embed_dim,),
    inputs=2,
    bias=c.out_bias,
    dtype=jnp.dtype(c.dtype),
    std=c.init_std / (2 * c.num_layers) ** 0.5,
    name="out",
  )(axes.constrain(o_BTNH, "BTNH"))


def _sees_whole(
  config: TransformerConfig, layer: int | jax.Array
) -> bool | jax.Array:
  """Whether a layer has no window; an array where its number is one."""
  if config.window is None or not config.full_layers:
    return config.window is None
  if isinstance(layer, int):
    return layer in config.full_layers
  return (layer == jnp.asarray(config.full_layers)).any()


def _near(context: Context) -> Sight:
  return context.whole if context.near is None else context.near


def _either(whole: bool | jax.Array, x: Any, y: Any) -> Any:
  if isinstance(whole, bool):
    return x if whole else y
  return x if x is y else jnp.where(whole, x, y)


def _after(new_XKH: jax.Array, x_BSKH: jax.Array) -> jax.Array:
  """Keys or values after an adapter's, which are before all others."""
  new_BXKH = jnp.broadcast_to(new_XKH, (len(x_BSKH), *new_XKH.shape))
  return jnp.concatenate([new_BXKH, x_BSKH], axis=1)


def _seeing(
  num: int, mask_B1TS: jax.Array | None, length: int, window: int | None
) -> jax.Array:
  """A mask with `num` keys before all others, which every query sees."""
  if mask_B1TS is None:
    mask_B1TS = ops.causal_mask(length, window)
  pad = ((0, 0), (0, 0), (0, 0), (num, 0))
  return jnp.pad(mask_B1TS, pad, constant_values=True)
