"""Normalisation over the last dim, in float32 or wider."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes


class Norm(nn.Module):
  """RMSNorm (arXiv:1910.07467, eq. 4) or LayerNorm (arXiv:1607.06450, eq. 4).

  rms:    x / sqrt(mean(x^2) + eps) * scale
  layer:  (x - mean(x)) / sqrt(var(x) + eps) * scale + bias
  """

  kind: str
  eps: float
  suffix: str = "D"
  bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if self.kind == "layer":
      wide = wide - wide.mean(-1, keepdims=True)
    square = (wide * wide).mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(square + self.eps)
    ones = axes.init(nn.initializers.ones, self.suffix)
    wide = wide * self.param("scale", ones, x.shape[-1:])
    if self.bias and self.kind == "layer":
      zeros = axes.init(nn.initializers.zeros, self.suffix)
      wide = wide + self.param("bias", zeros, x.shape[-1:])
    return wide.astype(x.dtype)
