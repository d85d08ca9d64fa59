"""Training some of the base's own weights, and no others."""

import dataclasses
import fnmatch
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes, trees
from llm_jax.config import field
from llm_jax.peft.method import Adapters, Method
from llm_jax.peft.sites import Base


@dataclasses.dataclass(frozen=True)
class Select(Method):
  """The parameters whose path a pattern matches, of the last layers or all.

  Paths are those of `show`, without the role: "blocks/mlp/up/kernel",
  "final_norm/scale", "embedding". "*norm*" trains the norms only.
  """

  patterns: tuple[str, ...] = field(("*",), "parameters that train")
  last: int = field(
    0, "of stacked layers, train only so many of the last; 0 = all", low=0
  )

  def add(self, base: Base) -> dict[str, Any]:
    every = [path for path, _ in trees.paths(base.params)]
    for pattern in self.patterns:
      if not any(fnmatch.fnmatchcase(path, pattern) for path in every):
        raise ValueError(
          f"--peft.patterns={pattern}: matches none of {', '.join(every)}"
        )
    layers = len(jax.tree.leaves(base.params["blocks"])[0])
    if self.last > layers:
      raise ValueError(f"--peft.last={self.last}: the model has {layers}")
    return {}

  def is_trainable(self, path: str) -> bool | int:
    path = path.removeprefix("params/")
    chosen = any(fnmatch.fnmatchcase(path, p) for p in self.patterns)
    if chosen and self.last and path.startswith("blocks/"):
      return self.last
    return chosen


@dataclasses.dataclass(frozen=True)
class BitFit(Adapters):
  """Only biases. arXiv:2106.10199.

  Differs from the paper: a dense map that has no bias gets one, from zero, as
  models of today have none.
  """

  targets: tuple[str, ...] = field(
    ("*",), "maps whose biases train: patterns of attention/query, mlp/up, ..."
  )

  def arrays(self, base: Base) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for site in base.sites(self.targets, "--peft.targets"):
      if trees.get(base.params, f"{site.path}/bias") is None:
        kernel = trees.get(base.params, f"{site.path}/kernel")
        shape = (site.shape[0], *site.shape[site.split :])
        zeros = jnp.zeros(shape, kernel.dtype)
        leaf = axes.box(zeros, "L" + site.suffix[site.split :])
        trees.put(out, f"{site.path}/bias", leaf)
    return out

  def is_trainable(self, path: str) -> bool | int:
    at, _, leaf = path.rpartition("/")
    name = at.partition("blocks/")[2]
    return at == "adapters" or (
      leaf == "bias" and any(fnmatch.fnmatchcase(name, p) for p in self.targets)
    )
