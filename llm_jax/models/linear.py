"""A dense map whose kernel remembers the letters of its dims."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.ops.matmul import matmul


class Linear(nn.Module):
  """Contracts the last `inputs` dims of x with a kernel spelled by `shape`.

  Linear("DNH", (N, H)) maps x_BTD to y_BTNH; Linear("NHD", (D,), inputs=2)
  maps it back. The kernel is normal with deviation `std`; the bias starts at 0.
  """

  shape: str
  features: tuple[int, ...]
  inputs: int = 1
  std: float = 0.02
  bias: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      axes.init(nn.initializers.normal(self.std), self.shape),
      (*x.shape[-self.inputs :], *self.features),
    ).astype(self.dtype)
    rows = x.shape[: -self.inputs]
    size = math.prod(x.shape[-self.inputs :])
    y = matmul(x.reshape(*rows, size), kernel.reshape(size, -1))
    y = y.reshape(*rows, *self.features)
    if self.bias:
      zeros = axes.init(nn.initializers.zeros, self.shape[self.inputs :])
      y += self.param("bias", zeros, self.features).astype(self.dtype)
    return y
