"""A recurrent encoder-decoder: a source -> what is written of it.

Dimension key: B sequences; T target positions; S source positions; L layers; D
width; A width of a state.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch
from llm_jax.models import blocks, recurrent
from llm_jax.models.language import LanguageModel
from llm_jax.models.norms import Norm
from llm_jax.models.recurrent import Marks, State
from llm_jax.models.recurrent_attention import Attention
from llm_jax.models.recurrent_encoder import Encoder
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.ops.routing import Routing


class Heard(NamedTuple):
  """What the encoder made of a source, as the decoder attends to it."""

  key_BSD: jax.Array
  x_BSD: jax.Array
  segment_BS: jax.Array


class Writing(NamedTuple):
  """Where a target stands: nothing before its source is read."""

  state: State | None = None  # [B, L, A] each
  heard: Heard | None = None


class RecurrentEncoderDecoder(LanguageModel):
  """Table, encoder, decoder, attention, head. arXiv:1508.04025.

  A source and a target of equal segments belong together: each layer of the
  decoder begins in the state in which the same layer of the encoder left the
  target's source, and no other source is attended to. In a loop of `decode`
  the prompt is the source, which is read once.
  """

  config: RecurrentEncoderDecoderConfig

  def setup(self) -> None:
    c = self.config
    self.make_table()
    self.make_heads()
    self.encoder = Encoder(c)
    self.blocks = blocks.stack(c, recurrent.Layer, (1, nn.broadcast, 1), 1)(c)
    self.attention = Attention(c)
    if c.norm != "none":
      self.final_norm = Norm(c.norm, c.norm_eps)

  def read(
    self, batch: Batch, real_BT: jax.Array | None = None
  ) -> tuple[jax.Array, Routing | None]:
    del real_BT
    tokens_BT, source_BS = batch["tokens_BT"], self.source(batch)
    for ids in (tokens_BT, source_BS):
      self.check_length(ids.shape[1], 0)
    segment_BT = batch.get("segment_BT", jnp.ones_like(tokens_BT))
    read_BS = batch.get("source_segment_BS", jnp.ones_like(source_BS))
    heard, states = self._listen(source_BS, read_BS, segment_BT)
    first = tuple(s_BLTA[:, :, 0] for s_BLTA in states)
    marks = recurrent.marks(segment_BT)
    x_BTD = self.dropped(self.embed(tokens_BT))
    x_BTD, _ = self.blocks(x_BTD, first, marks, states)
    return self._attend(x_BTD, heard, segment_BT), None

  def decode(
    self,
    tokens_BT: jax.Array,
    position_BT: jax.Array,
    segment_BT: jax.Array,
    writing: Writing,
  ) -> tuple[jax.Array, Writing]:
    """The first call reads a source and begins a target; then it goes on.

    Args:
      tokens_BT: a source, all of it; later what was written.
      position_BT: is not told.
      segment_BT: 1, or 0 = padding, which comes first.
      writing: of `open_cache`, or of the last call.

    Returns:
      logits_BV of what comes next, and where the target stands.
    """
    del position_BT
    state, heard = writing
    if state is None or heard is None:
      one_B1 = jnp.ones((len(tokens_BT), 1), jnp.int32)
      heard, states = self._listen(tokens_BT, segment_BT, one_B1)
      state = tuple(s_BLTA[:, :, 0] for s_BLTA in states)
      tokens_BT = one_B1 * self.config.start_id
    x_BTD = self.embed(tokens_BT)
    x_BTD, state = self.blocks(x_BTD, state, Marks(), None)
    x_BTD = self._attend(x_BTD, heard, jnp.ones_like(tokens_BT))
    return self.logits(x_BTD[:, -1]), Writing(state, heard)

  def open_cache(self, batch_size: int, slots: int) -> Writing:
    """Before a source; of any length."""
    del batch_size, slots
    return Writing()

  def _listen(
    self, source_BS: jax.Array, read_BS: jax.Array, segment_BT: jax.Array
  ) -> tuple[Heard, State]:
    """Sources as they are attended to, and the states of their ends."""
    x_BSD = self.dropped(self.embed(source_BS))
    x_BSD, states = self.encoder(x_BSD, read_BS, segment_BT)
    return Heard(self.attention.keys(x_BSD), x_BSD, read_BS), states

  def _attend(
    self, x_BTD: jax.Array, heard: Heard, segment_BT: jax.Array
  ) -> jax.Array:
    """What the decoder says of each position, with its source in view."""
    mask_BTS = segment_BT[:, :, None] == heard.segment_BS[:, None, :]
    x_BTD = self.attention(x_BTD, heard.key_BSD, heard.x_BSD, mask_BTS)
    x_BTD = self.dropped(x_BTD)
    return x_BTD if self.config.norm == "none" else self.final_norm(x_BTD)


def repeated(writing: Writing, times: int) -> Writing:
  """Each row `times` times, one after the other."""
  assert writing.state is not None and writing.heard is not None
  one = lambda x, suffix: axes.constrain(jnp.repeat(x, times, 0), suffix)
  heard = (
    one(x, suffix)
    for x, suffix in zip(writing.heard, ("BSD", "BSD", "BS"), strict=True)
  )
  return Writing(recurrent.repeated(writing.state, times), Heard(*heard))
