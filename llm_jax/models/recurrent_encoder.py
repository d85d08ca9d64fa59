"""What recurrent layers make of a source.

Dimension key: B sequences; T target positions; S source positions; D width; A
width of a state; L layers.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models import blocks, recurrent
from llm_jax.models.recurrent import Marks, State
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)


class Way(NamedTuple):
  """One direction of reading: where texts begin, and where each one ends."""

  marks: Marks
  end_BT: jax.Array  # source position after which a target's source is read


def way(read_BS: jax.Array, segment_BT: jax.Array) -> Way:
  """How sources of segments `read_BS` are read, for targets of others."""
  places_S = jnp.arange(read_BS.shape[1])
  mask_BTS = segment_BT[:, :, None] == read_BS[:, None, :]
  end_BT = jnp.where(mask_BTS, places_S, 0).max(-1)
  return Way(recurrent.marks(read_BS), end_BT)


class Layer(nn.Module):
  """A cell over a source, or one forward and one backward, side by side.

  arXiv:1409.0473, section 3.2. Beside what the next layer reads comes the
  state in which each target's source leaves the layer, of both together.
  """

  config: RecurrentEncoderDecoderConfig

  @nn.compact
  def __call__(
    self, x_BSD: jax.Array, ways: tuple[Way, ...]
  ) -> tuple[jax.Array, State]:
    c, said, ends = self.config, [], []
    read_BSD = recurrent.as_read(c, x_BSD)
    for width, way, prefix in zip(c.widths, ways, ("", "back_"), strict=False):
      turn = lambda x_BS, back=bool(prefix): x_BS[:, ::-1] if back else x_BS
      states = recurrent.swept(
        *(c, width, turn(read_BSD), recurrent.zeros(c, len(x_BSD), width)),
        *(way.marks, None, prefix),
      )
      said.append(turn(states[0]))
      at_BT1 = way.end_BT[:, :, None]
      ends.append([jnp.take_along_axis(s_BSA, at_BT1, 1) for s_BSA in states])
    drop = nn.Dropout(c.dropout, deterministic=not self.has_rng("dropout"))
    y_BSD = drop(axes.constrain(jnp.concatenate(said, -1), "BSD"))
    end_BTA = tuple(jnp.concatenate(e, -1) for e in zip(*ends, strict=True))
    return (x_BSD + y_BSD if c.residual else y_BSD), end_BTA


class Encoder(nn.Module):
  """The layers that read a source, of embeddings made elsewhere."""

  config: RecurrentEncoderDecoderConfig

  def setup(self) -> None:
    c = self.config
    self.blocks = blocks.stack(c, Layer, (nn.broadcast,), 1)(c)

  def __call__(
    self, x_BSD: jax.Array, read_BS: jax.Array, segment_BT: jax.Array
  ) -> tuple[jax.Array, State]:
    """What is said of each position, and the states at the end, [B, L, T, A].

    Args:
      x_BSD: embeddings.
      read_BS: segments of sources, 0 = padding, which is not read.
      segment_BT: those of targets, each of which has a state: that in which
        its source ends.
    """
    ways = (way(read_BS, segment_BT), way(read_BS[:, ::-1], segment_BT))
    found: tuple[jax.Array, State] = self.blocks(x_BSD, ways)
    return found
