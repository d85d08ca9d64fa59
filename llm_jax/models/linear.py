"""A dense map whose kernel remembers the letters of its dims."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.ops.matmul import matmul
from llm_jax.ops.quantise import dequantise

# What collection "adapters" may hold for a map; see `Linear`.
ADAPTER_NAMES = (
  *("a", "b", "scale", "dropout", "magnitude"),
  *("input_scale", "output_scale", "bias"),
)


def stored(module: Any, suffix: str, shape: tuple[int, ...]) -> jax.Array:
  """The kernel of a module in its dtype; normal with deviation `std` at first.

  Collection "quantised" may hold it in few bits (`ops/quantise`).
  """
  if module.has_variable("quantised", "kernel"):
    codes = module.get_variable("quantised", "kernel")
    return dequantise(codes, module.dtype)
  initializer = axes.init(nn.initializers.normal(module.std), suffix)
  kernel: jax.Array = module.param("kernel", initializer, shape)
  return kernel.astype(module.dtype)


class Linear(nn.Module):
  """Contracts the last `inputs` dims of x with a kernel spelled by `shape`.

  Linear("DNH", (N, H)) maps x_BTD to y_BTNH; Linear("NHD", (D,), inputs=2)
  maps it back. The kernel is normal with deviation `std`; the bias starts at 0
  unless `bias_init` says otherwise.

  What collection "adapters" holds for this map is applied; without it, this
  is the base. `scale` s and `dropout` are numbers:

    a, b          y = x W + s dropout(x) a b    (LoRA, arXiv:2106.09685, eq. 3)
    magnitude     y *= magnitude / |W + s a b|, the norm of each output's
                  column taken as constant (DoRA, arXiv:2402.09353, eq. 5, 11)
    input_scale   x *= input_scale                   (IA3, arXiv:2205.05638)
    bias          y += bias, for a map that has none  (BitFit, 2106.10199)
    output_scale  y *= output_scale, after the bias

  Collection "quantised" may hold the kernel in few bits (`ops/quantise`).
  """

  shape: str
  features: tuple[int, ...]
  inputs: int = 1
  std: float = 0.02
  bias: bool = False
  dtype: jnp.dtype = jnp.float32
  bias_init: Any = nn.initializers.zeros

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return self.shifted(self.product(x))

  def product(self, x: jax.Array) -> jax.Array:
    """What is linear in x, before outputs are scaled."""
    rows = x.shape[: -self.inputs]
    dims = x.shape[-self.inputs :]
    x = x.reshape(*rows, math.prod(dims))
    adapter = self.adapter()
    if "input_scale" in adapter:
      x = x * adapter["input_scale"].reshape(-1)
    kernel = stored(self, self.shape, (*dims, *self.features))
    kernel = kernel.reshape(math.prod(dims), -1)
    y = matmul(x, kernel)
    if "a" in adapter:
      y = self._low_rank(x, kernel, y, adapter)
    return y.reshape(*rows, *self.features)

  def shifted(self, y: jax.Array) -> jax.Array:
    """Outputs with what is added to them, then scaled."""
    adapter = self.adapter()
    if self.bias:
      start = axes.init(self.bias_init, self.shape[self.inputs :])
      bias: jax.Array = self.param("bias", start, self.features)
      y += bias.astype(self.dtype)
    if "bias" in adapter:
      y += adapter["bias"]
    if "output_scale" in adapter:
      y = y * adapter["output_scale"]
    return y

  def adapter(self) -> dict[str, jax.Array]:
    """What collection "adapters" holds for this map."""
    return {
      name: self.get_variable("adapters", name).astype(self.dtype)
      for name in ADAPTER_NAMES
      if self.has_variable("adapters", name)
    }

  def _low_rank(
    self,
    x: jax.Array,
    kernel: jax.Array,
    y: jax.Array,
    adapter: dict[str, jax.Array],
  ) -> jax.Array:
    a = adapter["a"].reshape(x.shape[-1], -1)
    b = adapter["b"].reshape(-1, y.shape[-1])
    dropped = x
    if "dropout" in adapter and self.has_rng("dropout"):
      kept = 1 - adapter["dropout"]
      keep = jax.random.bernoulli(self.make_rng("dropout"), kept, x.shape)
      dropped = jnp.where(keep, x / kept, 0)
    y += matmul(adapter["scale"] * matmul(dropped, a), b)
    if "magnitude" in adapter:
      wide = jnp.promote_types(self.dtype, jnp.float32)
      moved = (kernel + adapter["scale"] * (a @ b)).astype(wide)
      norm = jax.lax.stop_gradient(jnp.linalg.norm(moved, axis=0))
      magnitude: jax.Array = self.get_variable("adapters", "magnitude")
      y *= (magnitude.astype(wide).reshape(-1) / norm).astype(self.dtype)
    return y
