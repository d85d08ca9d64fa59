"""A decoder: ids -> activations -> scores of given targets.

Dimension key: B sequences; T positions; S slots; D residual; V vocabulary.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models import blocks, pipeline
from llm_jax.models import cache as cache_lib
from llm_jax.models.attention import Context
from llm_jax.models.blocks import Block
from llm_jax.models.config import TransformerConfig
from llm_jax.models.language import LanguageModel
from llm_jax.models.norms import Norm
from llm_jax.ops import masks, positions
from llm_jax.ops.routing import Routing


class Decoder(LanguageModel):
  """Embedding, blocks, norm, head. Layers are stacked on a leading dim L."""

  config: TransformerConfig

  def setup(self) -> None:
    c = self.config
    self.make_table()
    if c.positions == "learned":
      normal = nn.initializers.normal(c.init_std)
      self.positions_PE = self.param(
        "positions", axes.init(normal, "PE"), (c.max_length, c.embed_dim)
      )
    self.make_heads()
    self.blocks = blocks.stack(c)(c)
    self.final_norm = Norm(c.norm, c.norm_eps, bias=c.norm_bias)

  def read(
    self,
    tokens_BT: jax.Array,
    segment_BT: jax.Array | None,
    position_BT: jax.Array | None,
    real_BT: jax.Array | None = None,
  ) -> tuple[jax.Array, Routing | None]:
    """Activations, and how the tokens of `real_BT` went to experts."""
    B, T = tokens_BT.shape
    x_BTD, at_BT = self.embed(tokens_BT), position_BT
    if at_BT is None:
      at_BT = jnp.arange(T, dtype=jnp.int32)[None]
    prompt_XD, shared = self.prompt(), None
    X = 0 if prompt_XD is None else len(prompt_XD)
    self.check_length(T, X)
    if prompt_XD is not None:  # before every document of the row
      shared = jnp.zeros(())
      x_BTD = jnp.concatenate([_rows(prompt_XD, B), x_BTD], 1)
      at_BT = jnp.concatenate(
        [_rows(jnp.arange(X), B), jnp.broadcast_to(at_BT + X, (B, T))], 1
      )
      if segment_BT is not None or self.config.window:
        own_BT = jnp.ones((B, T), int) if segment_BT is None else segment_BT
        shared_BX = jnp.full((B, X), masks.EVERYONE)
        segment_BT = jnp.concatenate([shared_BX, own_BT], 1)
      if real_BT is not None:
        real_BT = jnp.pad(real_BT, ((0, 0), (X, 0)))
    mask_B1TS = None
    if segment_BT is not None:
      mask_B1TS = masks.attention_mask(
        segment_BT, segment_BT, at_BT, at_BT, self.config.window
      )
    if prompt_XD is not None and self.config.window:
      segment_BT = None  # the mask says more than documents and a window do
    context = (mask_B1TS, segment_BT, shared, real_BT)
    x_BTD, _, routing = self._run(x_BTD, at_BT, None, *context)
    return x_BTD[:, X:], routing

  def decode(
    self,
    tokens_BT: jax.Array,
    position_BT: jax.Array,
    segment_BT: jax.Array,
    cache: cache_lib.Cache,
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """Appends tokens to the cache; logits_BV of the last one, and the cache.

    Rows are aligned on the right: padding (segment 0) comes first.
    """
    prompt_XD = self.prompt()
    if prompt_XD is not None:
      position_BT += len(prompt_XD)
    x_BTD, cache = self._append(
      self.embed(tokens_BT), position_BT, segment_BT, cache
    )
    return self.logits(x_BTD[:, -1]), cache

  def open_cache(self, batch_size: int, slots: int) -> cache_lib.Cache:
    """An empty cache with room for `slots` tokens a row.

    A soft prompt, where an adapter brings one, is read into it already.
    """
    prompt_XD = self.prompt()
    if prompt_XD is None:
      return cache_lib.empty(self.config, batch_size, slots)
    X = len(prompt_XD)
    return self._append(
      _rows(prompt_XD, batch_size),
      _rows(jnp.arange(X), batch_size),
      jnp.full((batch_size, X), masks.EVERYONE),
      cache_lib.empty(self.config, batch_size, X + slots),
    )[1]

  def _append(
    self,
    x_BTD: jax.Array,
    position_BT: jax.Array,
    segment_BT: jax.Array,
    cache: cache_lib.Cache,
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """Runs embeddings against what the cache holds, and adds them to it."""
    cache = cache_lib.note(cache, position_BT, segment_BT)
    slots, T = cache.segment_BS.shape[1], x_BTD.shape[1]
    used_S = jnp.arange(slots) < cache.length + T
    mask_B1TS = masks.attention_mask(
      segment_BT,
      jnp.where(used_S, cache.segment_BS, masks.NOBODY),
      position_BT,
      cache.position_BS,
      self.config.window,
    )
    x_BTD, cache, _ = self._run(x_BTD, position_BT, cache, mask_B1TS)
    return x_BTD, cache_lib.advance(cache, T)

  def _run(
    self,
    x_BTD: jax.Array,
    at_BT: jax.Array,
    cache: Any,
    *mask: jax.Array | None,
  ) -> tuple[jax.Array, Any, Routing | None]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    if c.positions == "learned":
      x_BTD += self.positions_PE.astype(dtype)[at_BT]
    cos = sin = None
    if c.positions == "rope":
      scaling = c.rope_scaling
      frequencies = positions.rope_frequencies(
        c.H,
        c.rope_theta,
        factor=scaling.factor,
        low_factor=scaling.low_factor,
        high_factor=scaling.high_factor,
        original_length=scaling.original_length,
      )
      cos, sin = positions.rope_tables(at_BT, frequencies, dtype)
    x_BTD = self.dropped(x_BTD)
    context, routing = Context(cos, sin, *mask), None
    if cache is not None and not c.unroll:
      x_BTD, cache = self._layer_by_layer((x_BTD, cache), context)
    elif cache is None and self._has_stages():
      x_BTD, routing = self._in_stages(x_BTD, context)
    else:
      (x_BTD, cache), routing = self.blocks(
        (x_BTD, cache), jnp.arange(c.num_layers), context
      )
    return self.final_norm(x_BTD), cache, routing

  def _has_stages(self) -> bool:
    """Whether blocks are computed in stages; with a cache they never are."""
    return pipeline.num_stages() > 1 and not self.is_initializing()

  def _in_stages(
    self, x_BTD: jax.Array, context: Context
  ) -> tuple[jax.Array, Routing | None]:
    """The blocks, each where its weights are. Dropout draws by microbatch."""
    c, block = self.config, Block(self.config, parent=None)
    stages = pipeline.num_stages()
    key = self.make_rng("dropout") if self.has_rng("dropout") else None

    def layer(
      weights: Any, x_bTD: jax.Array, shared: Any, at: jax.Array, i: jax.Array
    ) -> tuple[jax.Array, Routing | None]:
      context, key = shared
      rngs = {}
      if key is not None:
        rngs["dropout"] = jax.random.fold_in(jax.random.fold_in(key, at), i)
      said: Any = block.apply(weights, (x_bTD, None), at, context, rngs=rngs)
      (x_bTD, _), routing = said
      return x_bTD, routing

    if c.remat != "none":
      kept = blocks.REMAT[c.remat]
      layer = jax.checkpoint(layer, policy=kept, prevent_cse=False)
    return pipeline.run(
      layer,
      blocks.stacked(self.variables),
      x_BTD,
      (context, key),
      microbatches=c.stage_microbatches or math.gcd(stages, len(x_BTD)),
      unroll=c.unroll,
      remat=c.stage_remat,
    )

  def _layer_by_layer(self, carry: tuple, context: Context) -> tuple:
    """The blocks, each with its number known: a cache may be in parts."""
    parts = self.variables
    layers = (
      parts["layers"]
      if "layers" in parts
      else blocks.by_layer(parts, self.config)
    )
    block = Block(self.config, parent=None)
    for layer in range(self.config.num_layers):
      carry, _ = block.apply(layers[str(layer)], carry, layer, context)
    return carry


def _rows(x: jax.Array, batch_size: int) -> jax.Array:
  """The same in every row."""
  return jnp.broadcast_to(x, (batch_size, *x.shape))
