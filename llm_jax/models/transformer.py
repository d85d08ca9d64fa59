"""A decoder: ids -> activations -> scores of given targets.

Dimension key: B sequences; T positions; S slots; D residual; V vocabulary.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch, Scores
from llm_jax.models import cache as cache_lib
from llm_jax.models import heads
from llm_jax.models.attention import Attention, Context
from llm_jax.models.config import TransformerConfig
from llm_jax.models.mlp import MLP
from llm_jax.models.norms import Norm
from llm_jax.ops import masks, positions


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, carry: tuple, layer: jax.Array, context: Context
  ) -> tuple[tuple, None]:
    c = self.config
    x_BTD, cache = carry
    norm = lambda name: Norm(c.norm, c.norm_eps, bias=c.norm_bias, name=name)
    drop = nn.Dropout(c.dropout, deterministic=not self.has_rng("dropout"))
    y_BTD, cache = Attention(c, name="attention")(
      norm("attention_norm")(x_BTD), context, layer, cache
    )
    x_BTD = axes.constrain(x_BTD + drop(y_BTD), "BTD")
    y_BTD = MLP(c, name="mlp")(norm("mlp_norm")(x_BTD))
    x_BTD = axes.constrain(x_BTD + drop(y_BTD), "BTD")
    return (x_BTD, cache), None


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
    self.blocks = _stack(c)(c)
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
    self._check_length(tokens_BT.shape[1])
    mask_B1TS = None
    if segment_BT is not None:
      at_BT = _row_positions(tokens_BT) if position_BT is None else position_BT
      mask_B1TS = masks.attention_mask(
        segment_BT, segment_BT, at_BT, at_BT, self.config.window
      )
    x_BTD, _ = self._run(tokens_BT, position_BT, mask_B1TS, None)
    return x_BTD

  def score(
    self, batch: Batch, *, entropy: bool = False, hits: bool = False
  ) -> Scores:
    """Scores `target_BT` given `tokens_BT` up to each position."""
    x_BTD = self(
      batch["tokens_BT"],
      segment_BT=batch.get("segment_BT"),
      position_BT=batch.get("position_BT"),
    )
    return heads.token_scores(
      x_BTD,
      self._kernel_DV(),
      batch["target_BT"],
      softcap=self.config.logit_softcap,
      chunk=self.config.head_chunk,
      entropy=entropy,
      hits=hits,
    )

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
    cache = cache_lib.note(cache, position_BT, segment_BT)
    slots = cache.segment_BS.shape[1]
    used_S = jnp.arange(slots) < cache.length + tokens_BT.shape[1]
    mask_B1TS = masks.attention_mask(
      segment_BT,
      jnp.where(used_S, cache.segment_BS, -1),
      position_BT,
      cache.position_BS,
      self.config.window,
    )
    x_BTD, cache = self._run(tokens_BT, position_BT, mask_B1TS, cache)
    logits_BV = heads.logits(
      x_BTD[:, -1], self._kernel_DV(), self.config.logit_softcap
    )
    return logits_BV, cache_lib.advance(cache, tokens_BT.shape[1])

  def _run(
    self,
    tokens_BT: jax.Array,
    position_BT: jax.Array | None,
    mask_B1TS: jax.Array | None,
    cache: Any,
  ) -> tuple[jax.Array, Any]:
    c, dtype = self.config, jnp.dtype(self.config.dtype)
    at_BT = _row_positions(tokens_BT) if position_BT is None else position_BT
    x_BTD = self.embedding_WE.astype(dtype)[tokens_BT]
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
    (x_BTD, cache), _ = self.blocks(
      (x_BTD, cache),
      jnp.arange(c.num_layers),
      Context(cos, sin, mask_B1TS),
    )
    return self.final_norm(x_BTD), cache

  def _kernel_DV(self) -> jax.Array:
    dtype = jnp.dtype(self.config.dtype)
    if self.config.tied:
      return self.embedding_WE.astype(dtype).T
    return self.head_DV.astype(dtype)

  def _check_length(self, length: int) -> None:
    if length > self.config.max_length:
      raise ValueError(
        f"a row of {length} tokens is longer than"
        f" --model.max_length={self.config.max_length}"
      )


def _row_positions(tokens_BT: jax.Array) -> jax.Array:
  return jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]


REMAT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def _stack(config: TransformerConfig) -> Any:
  """L blocks as one, their parameters stacked, whether looped or unrolled."""
  block = Block
  if config.remat != "none":
    block = nn.remat(Block, policy=REMAT[config.remat], prevent_cse=False)
  return nn.scan(
    block,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(0, nn.broadcast),
    length=config.num_layers,
    unroll=config.unroll or config.num_layers,
    metadata_params={nn.PARTITION_NAME: "L"},
  )
