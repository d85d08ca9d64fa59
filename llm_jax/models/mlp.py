"""The feed-forward half of a block.

Dimension key: B sequences; T positions; D residual; F feed-forward width.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models.config import TransformerConfig
from llm_jax.models.linear import Linear


class MLP(nn.Module):
  """down(act(gate x) * up x), or down(act(up x)) without a gate.

  SwiGLU and GeGLU: arXiv:2002.05202, eq. 6. GELU: arXiv:1606.08415, section
  2. Squared ReLU: arXiv:2109.08668.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    c, dtype = self.config, jnp.dtype(self.config.dtype)

    def widen(name: str) -> jax.Array:
      y_BTF = Linear(
        "DF",
        (c.mlp_dim,),
        std=c.init_std,
        bias=c.mlp_bias,
        dtype=dtype,
        name=name,
      )(x_BTD)
      return axes.constrain(y_BTF, "BTF")

    return Linear(
      "FD",
      (c.embed_dim,),
      std=c.init_std / (2 * c.num_layers) ** 0.5,
      bias=c.mlp_bias,
      dtype=dtype,
      name="down",
    )(activate(c.activation, widen))


def activate(kind: str, widen: Callable[[str], jax.Array]) -> jax.Array:
  """The non-linearity, of what the maps "up" and, if gated, "gate" give."""
  if kind == "swiglu":
    return jax.nn.silu(widen("gate")) * widen("up")
  if kind.startswith("geglu"):
    tanh = kind == "geglu"
    return jax.nn.gelu(widen("gate"), approximate=tanh) * widen("up")
  if kind.startswith("gelu"):
    return jax.nn.gelu(widen("up"), approximate=kind == "gelu")
  relu = jax.nn.relu(widen("up"))
  return relu if kind == "relu" else jnp.square(relu)
