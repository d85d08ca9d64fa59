"""A transformer: ids -> activations -> scores of given targets.

Dimension key: B sequences; T positions; S slots; D residual; V vocabulary.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch
from llm_jax.models import blocks, norms, pipeline, seeing
from llm_jax.models import cache as cache_lib
from llm_jax.models.blocks import Block
from llm_jax.models.config import TransformerConfig
from llm_jax.models.language import LanguageModel
from llm_jax.models.linear import Linear
from llm_jax.models.seeing import Context
from llm_jax.ops import masks, positions
from llm_jax.ops.routing import Routing


class Decoder(LanguageModel):
  """Embedding, blocks, norm, head. Layers are stacked on a leading dim L.

  With `sees` "all" it is an encoder, which scores what stands at a position.
  """

  config: TransformerConfig

  def setup(self) -> None:
    c = self.config
    normal = nn.initializers.normal(c.init_std)
    self.make_table()
    if c.positions == "learned":
      self.positions_PE = self.param(
        "positions",
        axes.init(normal, "PE"),
        (c.max_length + c.position_offset, c.embed_dim),
      )
    if c.positions == "relative":
      # Drawn about 0, they take an optimiser that is no Adafactor longer to
      # tell places apart than all else to be learned.
      local = lambda key, shape: positions.local_biases(
        c.relative_buckets, c.relative_distance, c.sees == "all", c.num_heads
      )
      self.distances_PN = self.param(
        "distances", axes.init(local, "PN"), (c.relative_buckets, c.num_heads)
      )
    if c.token_types:
      self.types_YE = self.param(
        "types", axes.init(normal, "YE"), (c.token_types, c.embed_dim)
      )
    if c.embed_norm:
      self.embed_norm = norms.of(c)
    if c.head_dense:
      self.head_dense = Linear(
        "D_",
        (c.embed_dim,),
        std=c.init_std,
        bias=c.head_dense_bias,
        dtype=jnp.dtype(c.dtype),
      )
      self.head_norm = norms.of(c)
    if c.outputs and c.output_dense == "tanh":
      self.output_dense = Linear(
        "D_",
        (c.embed_dim,),
        std=c.init_std,
        bias=True,
        dtype=jnp.dtype(c.dtype),
      )
    self.make_heads()
    self.blocks = blocks.stack(c)(c)
    if c.norm_at != "sum":
      self.final_norm = norms.of(c)

  def hidden(self, batch: Batch) -> jax.Array:
    """The residual stream before each block and after the last, [L+1,B,T,D].

    The last is after the last norm, too, where there is one.
    """
    seen: list[jax.Array] = []
    last_BTD, _ = self.read(batch, seen=seen)
    return jnp.stack([*seen[:-1], last_BTD])

  def read(
    self,
    batch: Batch,
    real_BT: jax.Array | None = None,
    seen: list[jax.Array] | None = None,
  ) -> tuple[jax.Array, Routing | None]:
    """Activations, and how the tokens of `real_BT` went to experts."""
    c, tokens_BT = self.config, batch["tokens_BT"]
    B, T = tokens_BT.shape
    segment_BT, at_BT = batch.get("segment_BT"), batch.get("position_BT")
    if segment_BT is None and c.sees == "all":
      segment_BT = seeing.completions(batch)
    x_BTD = self.embed(tokens_BT, batch.get("type_BT"))
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
      if segment_BT is not None or c.window:
        own_BT = jnp.ones((B, T), int) if segment_BT is None else segment_BT
        shared_BX = jnp.full((B, X), masks.EVERYONE)
        segment_BT = jnp.concatenate([shared_BX, own_BT], 1)
      if real_BT is not None:
        real_BT = jnp.pad(real_BT, ((0, 0), (X, 0)))
    prefix_BT = None
    if c.sees == "prefix":
      prefix_BT = seeing.prompts(batch.get("prompt_BT"), segment_BT, X)
    if segment_BT is None and (c.sees != "before" or c.positions == "relative"):
      segment_BT = jnp.ones((1, X + T), jnp.int32)
    see = lambda window: (
      None
      if segment_BT is None
      else masks.attention_mask(
        *(segment_BT, segment_BT, at_BT, at_BT, window),
        later=c.sees == "all",
        prefix_BS=prefix_BT,
      )
    )
    places_1T = at_BT if X else jnp.arange(T)[None]
    context = self._context(at_BT, see, (places_1T, places_1T))
    if prompt_XD is not None and c.window:
      segment_BT = None  # the mask says more than documents and a window do
    context = context._replace(
      segment_BT=segment_BT, shared=shared, real_BT=real_BT
    )
    x_BTD, _, routing = self._run(x_BTD, at_BT, None, context, seen)
    return x_BTD[:, X:], routing

  def _context(self, at_BT: jax.Array, see: Any, places: Any) -> Context:
    distances = self.distances_PN if hasattr(self, "distances_PN") else None
    return seeing.context(self.config, at_BT, see, places, distances)

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

  def before_head(self, x_BTD: jax.Array) -> jax.Array:
    """Activations as the head reads them. arXiv:1810.04805's masked head."""
    c = self.config
    if c.head_dense:
      y_BTD = jax.nn.gelu(self.head_dense(x_BTD), approximate=False)
      x_BTD = self.head_norm(y_BTD)
    if c.head_scale:  # as the table that it is tied to is of unit variance
      x_BTD = x_BTD * jnp.asarray(c.embed_dim**-0.5, x_BTD.dtype)
    return x_BTD

  def before_outputs(self, x_BTD: jax.Array) -> jax.Array:
    """As `output_dense` says. tanh: arXiv:1810.04805's released code."""
    c = self.config
    if c.outputs and c.output_dense == "tanh":
      return jnp.tanh(self.output_dense(x_BTD))
    return self.before_head(x_BTD) if c.output_dense == "head" else x_BTD

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
    source: seeing.Source | None = None,
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """Runs embeddings against what the cache holds, and adds them to it."""
    cache = cache_lib.note(cache, position_BT, segment_BT)
    slots, T = cache.segment_BS.shape[1], x_BTD.shape[1]
    used_S = jnp.arange(slots) < cache.length + T
    key_BS = jnp.where(used_S, cache.segment_BS, masks.NOBODY)
    whole = self.config.sees == "prefix" and T > 1  # a prompt
    see = lambda window: masks.attention_mask(
      *(segment_BT, key_BS, position_BT, cache.position_BS, window), later=whole
    )
    slot_S = jnp.arange(slots)
    places = (cache.length + jnp.arange(T))[None], slot_S[None]
    if self.prompt() is not None:  # whose places are before every row's first
      places = position_BT, cache.position_BS
    context = self._context(position_BT, see, places)
    context = context._replace(source=source)
    x_BTD, cache, _ = self._run(x_BTD, position_BT, cache, context)
    return x_BTD, cache_lib.advance(cache, T)

  def embed(
    self, tokens_BT: jax.Array, type_BT: jax.Array | None = None
  ) -> jax.Array:
    """Embeddings, scaled, and what their kind adds."""
    c, x_BTE = self.config, super().embed(tokens_BT)
    if c.embed_scale:
      x_BTE = x_BTE * jnp.asarray(c.embed_dim**0.5, x_BTE.dtype)
    if c.token_types:
      kind_BT = jnp.zeros_like(tokens_BT) if type_BT is None else type_BT
      # RoBERTa has one kind for all, as its pairs are parted by tokens alone.
      kind_BT = jnp.minimum(kind_BT, c.token_types - 1)
      x_BTE = x_BTE + self.types_YE.astype(c.dtype)[kind_BT]
    return x_BTE

  def _run(
    self,
    x_BTD: jax.Array,
    at_BT: jax.Array,
    cache: Any,
    context: Context,
    seen: list[jax.Array] | None = None,
  ) -> tuple[jax.Array, Any, Routing | None]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    if c.positions == "learned":
      x_BTD += self.positions_PE.astype(dtype)[at_BT + c.position_offset]
    if c.embed_norm:
      x_BTD = self.embed_norm(x_BTD)
    x_BTD = self.dropped(x_BTD)
    routing = None
    if seen is not None or (cache is not None and not c.unroll):
      x_BTD, cache = self._layer_by_layer((x_BTD, cache), context, seen)
    elif cache is None and self._has_stages():
      x_BTD, routing = self._in_stages(x_BTD, context)
    else:
      (x_BTD, cache), routing = self.blocks(
        (x_BTD, cache), jnp.arange(c.num_layers), context
      )
    if c.norm_at != "sum":
      x_BTD = self.final_norm(x_BTD)
    return x_BTD, cache, routing

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

  def _layer_by_layer(
    self, carry: tuple, context: Context, seen: list[jax.Array] | None
  ) -> tuple:
    """The blocks, each with its number known: a cache may be in parts.

    What each reads, and the last says, is added to `seen`.
    """
    seen = [] if seen is None else seen
    seen.append(carry[0])
    parts = self.variables
    layers = (
      parts["layers"]
      if "layers" in parts
      else blocks.by_layer(parts, self.config)
    )
    block = Block(self.config, parent=None)
    for layer in range(self.config.num_layers):
      carry, _ = block.apply(layers[str(layer)], carry, layer, context)
      seen.append(carry[0])
    return carry


def _rows(x: jax.Array, batch_size: int) -> jax.Array:
  """The same in every row."""
  return jnp.broadcast_to(x, (batch_size, *x.shape))
