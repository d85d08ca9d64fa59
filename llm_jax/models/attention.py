"""Multi-head, grouped and multi-query attention.

Dimension key: B sequences; T query positions; S key positions; D residual;
N query heads; K key/value heads; H head width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models import cache as cache_lib
from llm_jax.models import kernels
from llm_jax.models.config import TransformerConfig
from llm_jax.models.linear import Linear
from llm_jax.models.norms import Norm
from llm_jax.ops import attention as ops
from llm_jax.ops import positions


class Context(NamedTuple):
  """What every layer shares: rotary tables, and a mask unless plain causal.

  Of rows of several documents `segment_BT` says the same as the mask, together
  with the window; `shared` is there where some keys are everyone's. What is
  told of routing is told of the tokens of `real_BT`, None = all.
  """

  cos: jax.Array | None
  sin: jax.Array | None
  mask_B1TS: jax.Array | None
  segment_BT: jax.Array | None = None
  shared: jax.Array | None = None
  real_BT: jax.Array | None = None

  def kind(self) -> kernels.Kind:
    """What sort of mask it is."""
    if self.mask_B1TS is None:
      return "causal"
    if self.segment_BT is None:
      return "other"
    return "packed" if self.shared is None else "shared"


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

    def heads(name: str, letter: str, count: int) -> jax.Array:
      y_BTNH = Linear(
        f"D{letter}H",
        (count, c.H),
        std=c.init_std,
        bias=c.qkv_bias,
        dtype=dtype,
        name=name,
      )(x_BTD)
      return axes.constrain(y_BTNH, f"BT{letter}H")

    q_BTNH = heads("query", "N", c.num_heads)
    k_BSKH = heads("key", "K", c.K)
    v_BSKH = heads("value", "K", c.K)
    if c.qk_norm:
      q_BTNH = Norm("rms", c.norm_eps, "H", name="query_norm")(q_BTNH)
      k_BSKH = Norm("rms", c.norm_eps, "H", name="key_norm")(k_BSKH)
    if context.cos is not None and context.sin is not None:
      q_BTNH = positions.rotate(q_BTNH, context.cos, context.sin)
      k_BSKH = positions.rotate(k_BSKH, context.cos, context.sin)
    if cache is not None:
      cache, k_BSKH, v_BSKH = cache_lib.store(cache, layer, k_BSKH, v_BSKH)
    mask_B1TS, segment_BT = context.mask_B1TS, context.segment_BT
    kind = context.kind() if cache is None else "cache"
    if self.has_variable("adapters", "prefix_key"):
      k_BSKH, v_BSKH, mask_B1TS = self._prefixed(k_BSKH, v_BSKH, mask_B1TS)
      segment_BT = None
      kind = "other"
    o_BTNH = kernels.attend(
      q_BTNH, k_BSKH, v_BSKH, mask_B1TS, c, kind, segment_BT
    )
    y_BTD = Linear(
      "NHD",
      (c.embed_dim,),
      inputs=2,
      bias=c.out_bias,
      dtype=dtype,
      std=c.init_std / (2 * c.num_layers) ** 0.5,
      name="out",
    )(axes.constrain(o_BTNH, "BTNH"))
    return y_BTD, cache

  def _prefixed(
    self, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_B1TS: jax.Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """With keys and values before all others, which every query sees."""
    B, S = k_BSKH.shape[:2]
    if mask_B1TS is None:
      mask_B1TS = ops.causal_mask(S, self.config.window)

    def join(name: str, x_BSKH: jax.Array) -> jax.Array:
      new_XKH: jax.Array = self.get_variable("adapters", name)
      new_XKH = new_XKH.astype(x_BSKH.dtype)
      new_BXKH = jnp.broadcast_to(new_XKH, (B, *new_XKH.shape))
      return jnp.concatenate([new_BXKH, x_BSKH], axis=1)

    keys = join("prefix_key", k_BSKH)
    pad = ((0, 0), (0, 0), (0, 0), (keys.shape[1] - S, 0))
    mask = jnp.pad(mask_B1TS, pad, constant_values=True)
    return keys, join("prefix_value", v_BSKH), mask
