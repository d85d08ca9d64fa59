"""IA3: learned scales on keys, values and the feed-forward's inner width."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes, trees
from llm_jax.config import field
from llm_jax.peft import sites
from llm_jax.peft.method import Method


@dataclasses.dataclass(frozen=True)
class IA3(Method):
  """One number for each output of some maps and each input of others.

  arXiv:2205.05638, section 3.3. All begin at 1: training begins at the base.
  """

  outputs: tuple[str, ...] = field(
    ("attention/key", "attention/value"), "maps whose outputs are scaled"
  )
  inputs: tuple[str, ...] = field(("mlp/down",), "maps whose inputs are scaled")

  def add(
    self,
    params: Any,
    suffixes: Any,
    key: jax.Array,
    encode: Callable[[str], Sequence[int]],
  ) -> dict[str, Any]:
    del key, encode
    out: dict[str, Any] = {}

    def ones(site: sites.Site, name: str, dims: slice) -> None:
      kernel = trees.get(params, f"{site.path}/kernel")
      shape = (site.shape[0], *site.shape[dims])
      leaf = axes.box(jnp.ones(shape, kernel.dtype), "L" + site.suffix[dims])
      trees.put(out, f"{site.path}/{name}", leaf)

    find = lambda patterns, flag: sites.matching(
      params, suffixes, patterns, flag
    )
    for site in find(self.outputs, "--peft.outputs"):
      ones(site, "output_scale", slice(site.split, None))
    for site in find(self.inputs, "--peft.inputs"):
      ones(site, "input_scale", slice(1, site.split))
    return out
