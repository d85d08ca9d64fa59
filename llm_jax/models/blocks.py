"""A layer, and all of them stacked.

Dimension key: B sequences; T positions; D residual.
"""

from typing import Any

import flax.linen as nn
import jax

from llm_jax import axes
from llm_jax.models.attention import Attention, Context
from llm_jax.models.bottleneck import Bottleneck
from llm_jax.models.config import TransformerConfig
from llm_jax.models.experts import Mixture
from llm_jax.models.mlp import MLP
from llm_jax.models.norms import Norm
from llm_jax.ops.routing import Routing

REMAT = {
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x)).

  Where the latter is a mixture of experts, how it routed comes beside.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, carry: tuple, layer: int | jax.Array, context: Context
  ) -> tuple[tuple, Routing | None]:
    c = self.config
    x_BTD, cache = carry
    norm = lambda name: Norm(c.norm, c.norm_eps, bias=c.norm_bias, name=name)
    drop = nn.Dropout(c.dropout, deterministic=not self.has_rng("dropout"))
    y_BTD, cache = Attention(c, name="attention")(
      norm("attention_norm")(x_BTD), context, layer, cache
    )
    y_BTD = Bottleneck(name="attention_adapter")(y_BTD)
    x_BTD = axes.constrain(x_BTD + drop(y_BTD), "BTD")
    n_BTD, routing = norm("mlp_norm")(x_BTD), None
    if c.experts.num:
      y_BTD, routing = Mixture(c, name="mlp")(n_BTD, context.real_BT)
    else:
      y_BTD = MLP(c, name="mlp")(n_BTD)
    y_BTD = Bottleneck(name="mlp_adapter")(y_BTD)
    x_BTD = axes.constrain(x_BTD + drop(y_BTD), "BTD")
    return (x_BTD, cache), routing


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


def stack(config: TransformerConfig) -> Any:
  """L blocks as one, their parameters stacked, whether looped or unrolled."""
  block = Block
  if config.remat != "none":
    block = nn.remat(Block, policy=REMAT[config.remat], prevent_cse=False)
  return nn.scan(
    block,
    variable_axes={"params": 0, "adapters": 0, "quantised": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(0, nn.broadcast),
    length=config.num_layers,
    unroll=config.unroll or config.num_layers,
    metadata_params={nn.PARTITION_NAME: "L"},
  )
