"""An encoder-decoder: a source -> what is written of it.

Dimension key: B sequences; T target positions; S source positions; D residual;
V vocabulary.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax.contracts import Batch
from llm_jax.models import cache as cache_lib
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.seeing import Source
from llm_jax.models.transformer import Decoder
from llm_jax.ops import masks
from llm_jax.ops.routing import Routing

_NEVER = -1e30  # a logit; infinite ones have no entropy


class Encoder(Decoder):
  """A stack that sees all of a document, of embeddings made elsewhere."""

  def make_table(self) -> None:
    self.embed_dropout = nn.Dropout(self.config.dropout)

  def make_heads(self) -> None:
    """It has none."""

  def encode(
    self,
    x_BSD: jax.Array,
    segment_BS: jax.Array,
    position_BS: jax.Array,
    seen: list[jax.Array] | None = None,
  ) -> jax.Array:
    """What is made of sources, [B, S, D]; segment 0 is padding."""
    places_1S = jnp.arange(x_BSD.shape[1])[None]
    see = lambda window: masks.attention_mask(
      *(segment_BS, segment_BS, position_BS, position_BS, window), later=True
    )
    context = self._context(position_BS, see, (places_1S, places_1S))
    return self._run(x_BSD, position_BS, None, context, seen)[0]


class EncoderDecoder(Decoder):
  """An encoder, and a decoder whose blocks read what it made.

  A source and a target of equal segments belong together. In a loop of
  `decode` the prompt is the source, which is read once.
  """

  config: EncoderDecoderConfig

  def setup(self) -> None:
    super().setup()
    self.encoder = Encoder(self.config.reader)

  def read(
    self,
    batch: Batch,
    real_BT: jax.Array | None = None,
    seen: list[jax.Array] | None = None,
    seen_source: list[jax.Array] | None = None,
  ) -> tuple[jax.Array, Routing | None]:
    del real_BT
    tokens_BT, source_BS = batch["tokens_BT"], self.source(batch)
    (B, T), S = tokens_BT.shape, source_BS.shape[1]
    self.check_length(T, 0)
    self.check_length(S, 0)
    side = lambda name, size, default: batch.get(
      name, jnp.broadcast_to(default, (B, size)).astype(jnp.int32)
    )
    at_BT = side("position_BT", T, jnp.arange(T))
    segment_BT = side("segment_BT", T, jnp.ones(()))
    read_BS = side("source_segment_BS", S, jnp.ones(()))
    places_BS = side("source_position_BS", S, jnp.arange(S))
    x_BSD = self.encoder.encode(
      self.embed(source_BS), read_BS, places_BS, seen_source
    )
    if seen_source is not None:
      seen_source[-1] = x_BSD
    see = lambda window: masks.attention_mask(
      segment_BT, segment_BT, at_BT, at_BT, window
    )
    places_1T = jnp.arange(T)[None]
    context = self._context(at_BT, see, (places_1T, places_1T))
    context = context._replace(
      segment_BT=segment_BT, source=_source(x_BSD, segment_BT, read_BS)
    )
    x_BTD = self.embed(tokens_BT)
    return self._run(x_BTD, at_BT, None, context, seen)[0], None

  def hidden_source(self, batch: Batch) -> jax.Array:
    """`hidden` of the encoder, [L+1,B,S,D]."""
    seen: list[jax.Array] = []
    self.read(batch, seen_source=seen)
    return jnp.stack(seen)

  def decode(
    self,
    tokens_BT: jax.Array,
    position_BT: jax.Array,
    segment_BT: jax.Array,
    cache: cache_lib.Cache,
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """The first call reads a source and begins a target; then it goes on.

    Places of a target are told by the cache alone, as all begin together.

    Args:
      tokens_BT: a source, all of it; later what was written.
      position_BT: places in the source.
      segment_BT: 1, or 0 = padding, which comes first.
      cache: empty, or of the last call.

    Returns:
      logits_BV of what comes next, and the cache.
    """
    if cache.source is not None:
      read_BS = cache.source.segment_BS
      return self._write(tokens_BT, None, read_BS, cache)
    x_BSD = self.encoder.encode(self.embed(tokens_BT), segment_BT, position_BT)
    cache = cache_lib.with_source(self.config, cache, segment_BT)
    first_B1 = jnp.full((len(tokens_BT), 1), self.config.start_id, jnp.int32)
    logits_BV, cache = self._write(first_B1, x_BSD, segment_BT, cache)
    if self.config.first_id >= 0:
      only_V = jnp.arange(self.config.vocab_size) == self.config.first_id
      logits_BV = jnp.where(only_V, logits_BV, _NEVER)
    return logits_BV, cache

  def _write(
    self,
    tokens_BT: jax.Array,
    x_BSD: jax.Array | None,
    read_BS: jax.Array,
    cache: cache_lib.Cache,
  ) -> tuple[jax.Array, cache_lib.Cache]:
    """Reads tokens of a target on."""
    B, T = tokens_BT.shape
    at_BT = jnp.broadcast_to(cache.length + jnp.arange(T), (B, T))
    one_BT = jnp.ones((B, T), jnp.int32)
    source = _source(x_BSD, one_BT, read_BS)
    x_BTD, cache = self._append(
      self.embed(tokens_BT), at_BT, one_BT, cache, source
    )
    return self.logits(x_BTD[:, -1]), cache


def _source(
  x_BSD: jax.Array | None, segment_BT: jax.Array, read_BS: jax.Array
) -> Source:
  """A source, of which a target sees what has its segment."""
  mask_BTS = segment_BT[:, :, None] == read_BS[:, None, :]
  return Source(x_BSD, mask_BTS[:, None])


def grown(cache: cache_lib.Cache, slots: int) -> cache_lib.Cache:
  """The cache with room for `slots` more tokens of a target."""
  alone = dataclasses.replace(cache, source=None)
  return dataclasses.replace(cache_lib.grown(alone, slots), source=cache.source)


# The dim of each array that rows lie on.
OF_ROWS: Any = dataclasses.replace(cache_lib.OF_ROWS, source=0)
