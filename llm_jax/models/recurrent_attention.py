"""A recurrent decoder's attention to a source.

Dimension key: B sequences; T target positions; S source positions; D width of
states; A the same, as it is made.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models.linear import Linear
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.ops import attention as ops


class Attention(nn.Module):
  """Global attention: arXiv:1508.04025, equations 5, 7 and 8.

    a(s) = softmax_s(h W s)  or  softmax_s(h s)
    h~   = tanh(W_c [sum_s a(s) s; h])

  Differs from the paper: h~ is not fed to the next step, so that all positions
  of a target are read at once.
  """

  config: RecurrentEncoderDecoderConfig

  def setup(self) -> None:
    c = self.config
    dense = lambda: Linear(
      "DA", (c.embed_dim,), std=c.init_std, dtype=jnp.dtype(c.dtype)
    )
    if c.score == "general":
      self.key = dense()
    self.found, self.own = dense(), dense()

  def keys(self, x_BSD: jax.Array) -> jax.Array:
    """A source as targets compare themselves with it."""
    if self.config.score == "dot":
      return x_BSD
    return axes.constrain(self.key(x_BSD), "BSD")

  def __call__(
    self,
    x_BTD: jax.Array,
    key_BSD: jax.Array,
    x_BSD: jax.Array,
    mask_BTS: jax.Array,
  ) -> jax.Array:
    """What is said of each position of a target, [B, T, D].

    Args:
      x_BTD: of the target.
      key_BSD: `keys` of the source.
      x_BSD: of the source.
      mask_BTS: True where a position sees one of the source.
    """
    scale = self.config.embed_dim**0.5  # by which scores are divided
    found_BT1D = ops.attention(
      x_BTD[:, :, None] * scale,
      key_BSD[:, :, None],
      x_BSD[:, :, None],
      mask_BTS[:, None],
    )
    y_BTA = self.found(found_BT1D[:, :, 0]) + self.own(x_BTD)
    return axes.constrain(jnp.tanh(axes.constrain(y_BTA, "BTA")), "BTD")
