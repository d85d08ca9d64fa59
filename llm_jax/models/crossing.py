"""Attention of a decoder to what an encoder made of a source.

Dimension key: B sequences; T target positions; S source positions; D residual;
N query heads; K key/value heads; H head width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.models import cache as cache_lib
from llm_jax.models import kernels
from llm_jax.models.attention import heads, spoken
from llm_jax.models.config import TransformerConfig
from llm_jax.models.seeing import Source


class Cross(nn.Module):
  """softmax(q k^T / sqrt(H)) v over a source. arXiv:1706.03762, section 3.2.3.

  Places are not told. With a cache the source is read once: its keys and
  values are kept there.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    source: Source,
    layer: int | jax.Array,
    cache: cache_lib.Cache | None,
  ) -> tuple[jax.Array, cache_lib.Cache | None]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    q_BTNH = heads(c, "query", "N", c.num_heads, x_BTD)
    if c.attention_scale is not None:
      q_BTNH = q_BTNH * jnp.asarray(c.attention_scale * c.H**0.5, dtype)
    if source.x_BSD is None:
      assert cache is not None
      k_BSKH, v_BSKH = cache_lib.read_source(cache, layer)
    else:
      k_BSKH = heads(c, "key", "K", c.K, source.x_BSD)
      v_BSKH = heads(c, "value", "K", c.K, source.x_BSD)
      if cache is not None:
        cache = cache_lib.store_source(cache, layer, k_BSKH, v_BSKH)
    o_BTNH = kernels.attend(
      *(q_BTNH, k_BSKH, v_BSKH, source.mask_B1TS, c),
      kind="other" if cache is None else "cache",
    )
    return spoken(c, o_BTNH), cache
