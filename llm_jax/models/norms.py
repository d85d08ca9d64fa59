"""Normalisation over the last dims, in float32 or wider."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models.config import TransformerConfig


class Norm(nn.Module):
  """RMSNorm (arXiv:1910.07467, eq. 4) or LayerNorm (arXiv:1607.06450, eq. 4).

  rms:    x / sqrt(mean(x^2) + eps) * scale
  layer:  (x - mean(x)) / sqrt(var(x) + eps) * scale + bias

  Over as many dims as the suffix names. With `from_one` the scale is 1 + what
  is kept, so that weight decay pulls it to 1.
  """

  kind: str
  eps: float
  suffix: str = "D"
  bias: bool = False
  from_one: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    dims = tuple(range(-len(self.suffix), 0))
    shape = x.shape[-len(self.suffix) :]
    if self.kind == "layer":
      wide = wide - wide.mean(dims, keepdims=True)
    square = (wide * wide).mean(dims, keepdims=True)
    wide = wide * jax.lax.rsqrt(square + self.eps)
    zeros = axes.init(nn.initializers.zeros, self.suffix)
    ones = axes.init(nn.initializers.ones, self.suffix)
    if self.from_one:
      wide = wide * (1 + self.param("scale", zeros, shape))
    else:
      wide = wide * self.param("scale", ones, shape)
    if self.bias and self.kind == "layer":
      wide = wide + self.param("bias", zeros, shape)
    return wide.astype(x.dtype)


def of(config: TransformerConfig, name: str | None = None) -> Norm:
  """A norm of the residual stream."""
  c = config
  return Norm(
    c.norm, c.norm_eps, bias=c.norm_bias, from_one=c.norm_from_one, name=name
  )
