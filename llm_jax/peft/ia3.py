"""IA3: learned scales on keys, values and the feed-forward's inner width."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from llm_jax import axes, trees
from llm_jax.config import field
from llm_jax.peft.method import Adapters
from llm_jax.peft.sites import Base, Site


@dataclasses.dataclass(frozen=True)
class IA3(Adapters):
  """One number for each output of some maps and each input of others.

  arXiv:2205.05638, section 3.3. All begin at 1: training begins at the base.
  """

  outputs: tuple[str, ...] = field(
    ("attention/key", "attention/value"), "maps whose outputs are scaled"
  )
  inputs: tuple[str, ...] = field(("mlp/down",), "maps whose inputs are scaled")

  def arrays(self, base: Base) -> dict[str, Any]:
    out: dict[str, Any] = {}

    def ones(site: Site, name: str, dims: slice) -> None:
      kernel = trees.get(base.params, f"{site.path}/kernel")
      shape = (site.shape[0], *site.shape[dims])
      leaf = axes.box(jnp.ones(shape, kernel.dtype), "L" + site.suffix[dims])
      trees.put(out, f"{site.path}/{name}", leaf)

    for site in base.sites(self.outputs, "--peft.outputs"):
      ones(site, "output_scale", slice(site.split, None))
    for site in base.sites(self.inputs, "--peft.inputs"):
      ones(site, "input_scale", slice(1, site.split))
    return out
