"""A decoder: ids -> activations -> scores of given targets.

Dimension key: B sequences; T positions; S slots; D residual; V vocabulary.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch, Scores
from llm_jax.models import blocks, heads, pipeline
from llm_jax.models import cache as cache_lib
from llm_jax.models.attention import Context
from llm_jax.models.blocks import Block
from llm_jax.models.config import TransformerConfig
from llm_jax.models.norms import Norm
from llm_jax.ops import masks, positions
from llm_jax.ops.routing import real_tokens, Routing


class Decoder(nn.Module):
  """Embedding, blocks, norm, head. Layers are stacked on a leading dim L."""

  config: TransformerConfig

  def setup(self) -> None:
    c = self.config
    normal = nn.initializers.normal(c.init_std)
    self.embedding_WE = self.param(
      "embedding", axes.init(normal, "WE"), (c.vocab_size, c.embed_dim)
    )
    if c.positions == "learned":
      self.positions_PE = self.param(
        "positions", axes.init(normal, "PE"), (c.max_length, c.embed_dim)
      )
    if not c.tied:
      self.head_DV = self.param(
        "head", axes.init(normal, "DV"), (c.embed_dim, c.vocab_size)
      )
    if c.outputs:  # arXiv:2009.01325, appendix B.1
      small = nn.initializers.normal((c.embed_dim + 1) ** -0.5)
      self.output_head_DO = self.param(
        "output_head", axes.init(small, "DO"), (c.embed_dim, c.outputs)
      )
    self.blocks = blocks.stack(c)(c)
    self.final_norm = Norm(c.norm, c.norm_eps, bias=c.norm_bias)
    self.embed_dropout = nn.Dropout(c.dropout)

  def __call__(
    self,
    tokens_BT: jax.Array,
    *,
    segment_BT: jax.Array | None = None,
    position_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Activations x_BTD after the last norm, attention plain causal or packed.

    Args:
      tokens_BT: ids.
      segment_BT: document of each token, 0 = padding; None = one a row.
      position_BT: place within the document; None = place in the row.
    """
    return self._read(tokens_BT, segment_BT, position_BT)[0]

  def _read(
    self,
    tokens_BT: jax.Array,
    segment_BT: jax.Array | None,
    position_BT: jax.Array | None,
    real_BT: jax.Array | None = None,
  ) -> tuple[jax.Array, Routing | None]:
    """Activations, and how the tokens of `real_BT` went to experts."""
    B, T = tokens_BT.shape
    x_BTD, at_BT = self._embed(tokens_BT), position_BT
    if at_BT is None:
      at_BT = jnp.arange(T, dtype=jnp.int32)[None]
    prompt_XD, shared = self._prompt(), None
    X = 0 if prompt_XD is None else len(prompt_XD)
    self._check_length(T, X)
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

  def score(
    self,
    batch: Batch,
    *,
    entropy: bool = False,
    hits: bool = False,
    temperature: float = 1.0,
  ) -> Scores:
    """Scores `target_BT` given `tokens_BT` up to each position.

    What the output head says of a position, it says of the text up to it.
    """
    x_BTD, routing = self._read(
      batch["tokens_BT"],
      batch.get("segment_BT"),
      batch.get("position_BT"),
      real_tokens(batch) if self.config.experts.num else None,
    )
    scores = heads.token_scores(
      x_BTD,
      self._kernel_DV(),
      batch["target_BT"],
      softcap=self.config.logit_softcap,
      chunk=self.config.head_chunk,
      entropy=entropy,
      hits=hits,
      special_GD=self._special_head(),
      asked_BT=batch.get("asked_BT"),
      temperature=temperature,
    )._replace(routing=routing)
    if not self.config.outputs:
      return scores
    output_BTO = heads.outputs(x_BTD, self.output_head_DO)
    return scores._replace(output_BTO=output_BTO)

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
    prompt_XD = self._prompt()
    if prompt_XD is not None:
      position_BT += len(prompt_XD)
    x_BTD, cache = self._append(
      self._embed(tokens_BT), position_BT, segment_BT, cache
    )
    logits_BV = heads.logits(
      x_BTD[:, -1],
      self._kernel_DV(),
      self.config.logit_softcap,
      self._special_head(),
    )
    return logits_BV, cache

  def open_cache(self, batch_size: int, slots: int) -> cache_lib.Cache:
    """An empty cache with room for `slots` tokens a row.

    A soft prompt, where an adapter brings one, is read into it already.
    """
    prompt_XD = self._prompt()
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

  def _embed(self, tokens_BT: jax.Array) -> jax.Array:
    x_BTE = self.embedding_WE.astype(self.config.dtype)[tokens_BT]
    special_GE: jax.Array | None = self.get_variable("adapters", "special")
    if special_GE is None:
      return x_BTE
    G = len(special_GE)
    added_BTE = special_GE.astype(x_BTE.dtype)[jnp.minimum(tokens_BT, G - 1)]
    return x_BTE + jnp.where(tokens_BT[..., None] < G, added_BTE, 0)

  def _special_head(self) -> jax.Array | None:
    """What an adapter adds to the head of special tokens, [G, D]."""
    name = "special" if self.config.tied else "special_head"
    added_GD: jax.Array | None = self.get_variable("adapters", name)
    return None if added_GD is None else added_GD.astype(self.config.dtype)

  def _prompt(self) -> jax.Array | None:
    """Embeddings of a soft prompt (arXiv:2104.08691), if there is one."""
    prompt_XD: jax.Array | None = self.get_variable("adapters", "prompt")
    return None if prompt_XD is None else prompt_XD.astype(self.config.dtype)

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
    x_BTD = self.embed_dropout(x_BTD, deterministic=not self.has_rng("dropout"))
    x_BTD = axes.constrain(x_BTD, "BTD")
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

  def _kernel_DV(self) -> jax.Array:
    dtype = jnp.dtype(self.config.dtype)
    if self.config.tied:
      # Else the compiler gathers the gradients of logits by the vocabulary.
      return axes.constrain(self.embedding_WE.astype(dtype).T, "_V")
    return self.head_DV.astype(dtype)

  def _check_length(self, length: int, prompt: int) -> None:
    if length + prompt > self.config.max_length:
      soft = f" after {prompt} virtual ones" if prompt else ""
      raise ValueError(
        f"a row of {length} tokens{soft} is longer than"
        f" --model.max_length={self.config.max_length}"
      )


def _rows(x: jax.Array, batch_size: int) -> jax.Array:
  """The same in every row."""
  return jnp.broadcast_to(x, (batch_size, *x.shape))
