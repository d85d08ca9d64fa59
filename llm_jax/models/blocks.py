"""A layer, and all of them stacked.

Dimension key: B sequences; T positions; D residual.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models import norms
from llm_jax.models.attention import Attention
from llm_jax.models.bottleneck import Bottleneck
from llm_jax.models.config import TransformerConfig
from llm_jax.models.crossing import Cross
from llm_jax.models.experts import Mixture
from llm_jax.models.mlp import MLP
from llm_jax.models.seeing import Context
from llm_jax.models.shape import Shape
from llm_jax.ops.routing import Routing

REMAT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
  """Attention, then an MLP, each added to the residual stream.

  What is normalised says `norm_at`, for each half f:

    input   x + f(norm(x))               GPT-2, Llama; arXiv:2002.04745
    output  x + norm(f(x))               OLMo 2, arXiv:2501.00656, section 3.2
    both    x + out_norm(f(norm(x)))     Gemma 2, arXiv:2408.00118, section 2
    sum     norm(x + f(x))               BERT; arXiv:1706.03762, section 3.1

  Where the context brings a source, attention to it comes between the two.
  Where the MLP is a mixture of experts, how it routed comes beside.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, carry: tuple, layer: int | jax.Array, context: Context
  ) -> tuple[tuple, Routing | None]:
    c, (x_BTD, cache) = self.config, carry
    n_BTD = self._read("attention_norm", x_BTD)
    if not c.first_norm:
      n_BTD = jnp.where(layer == 0, x_BTD, n_BTD)
    y_BTD, cache = Attention(c, name="attention")(n_BTD, context, layer, cache)
    x_BTD = self._add("attention", x_BTD, y_BTD)
    if context.source is not None:
      n_BTD = self._read("cross_norm", x_BTD)
      y_BTD, cache = Cross(c, name="cross")(n_BTD, context.source, layer, cache)
      x_BTD = self._add("cross", x_BTD, y_BTD)
    n_BTD, routing = self._read("mlp_norm", x_BTD), None
    if c.experts.num:
      y_BTD, routing = Mixture(c, name="mlp")(n_BTD, context.real_BT)
    else:
      y_BTD = MLP(c, name="mlp")(n_BTD)
    return (self._add("mlp", x_BTD, y_BTD), cache), routing

  def _read(self, name: str, x_BTD: jax.Array) -> jax.Array:
    """What a half of the block is given."""
    if self.config.norm_at in ("output", "sum"):
      return x_BTD
    return norms.of(self.config, name)(x_BTD)

  def _add(self, half: str, x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
    """The residual stream after a half of the block has spoken."""
    c = self.config
    y_BTD = Bottleneck(name=f"{half}_adapter")(y_BTD)
    if c.norm_at == "output":
      y_BTD = norms.of(c, f"{half}_norm")(y_BTD)
    if c.norm_at == "both":
      y_BTD = norms.of(c, f"{half}_out_norm")(y_BTD)
    drop = nn.Dropout(c.dropout, deterministic=not self.has_rng("dropout"))
    x_BTD += drop(y_BTD)
    if c.norm_at == "sum":
      x_BTD = norms.of(c, f"{half}_norm")(x_BTD)
    return axes.constrain(x_BTD, "BTD")


def by_layer(variables: Any, config: TransformerConfig) -> dict[str, Any]:
  """Variables of each block alone, by its number.

  As the collection "layers" of a decoder whose layers are no loop they spare a
  loop around it to cut them out of the stacked ones in every turn.
  """
  together = stacked(variables)
  return {
    str(i): jax.tree.map(lambda x, i=i: x[i], together)
    for i in range(config.num_layers)
  }


def stacked(variables: Any) -> dict[str, Any]:
  """Variables of all blocks, each with a leading dim L."""
  return {
    name: part["blocks"] for name, part in variables.items() if "blocks" in part
  }


def stack(
  config: Shape,
  block: type[nn.Module] = Block,
  in_axes: tuple = (0, nn.broadcast),
  out_axes: int = 0,
) -> Any:
  """L blocks as one, their parameters stacked, whether looped or unrolled."""
  if config.remat != "none":
    block = nn.remat(block, policy=REMAT[config.remat], prevent_cse=False)
  return nn.scan(
    block,
    variable_axes={"params": 0, "adapters": 0, "quantised": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=in_axes,
    out_axes=out_axes,
    length=config.num_layers,
    unroll=config.unroll or config.num_layers,
    metadata_params={nn.PARTITION_NAME: "L"},
  )
