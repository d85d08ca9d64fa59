"""Low-rank adapters: LoRA, its rank-stabilised scaling, and DoRA."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes, keys, trees
from llm_jax.config import field
from llm_jax.peft.method import Adapters
from llm_jax.peft.sites import Base, Site


@dataclasses.dataclass(frozen=True)
class LoRA(Adapters):
  """W + s A B, with A [inputs, R] and B [R, outputs]. arXiv:2106.09685, eq. 3.

  s = alpha / R, or alpha / sqrt(R) (rank-stabilised, arXiv:2312.03732). A is
  uniform within 1 / sqrt(inputs), B is zero: training begins at the base. With
  `dora`, each output's column is brought to a length that is learned
  (arXiv:2402.09353, eq. 5).
  """

  rank: int = field(8, "R", low=1)
  alpha: float = field(16.0, "size of the update, before / R", low=0)
  dropout: float = field(0.0, "on what A reads", low=0, high=0.99)
  targets: tuple[str, ...] = field(
    ("*",), "maps to adapt: patterns of attention/query, mlp/up, ..."
  )
  stabilised: bool = field(False, "scale by alpha / sqrt(R), not alpha / R")
  dora: bool = field(False, "learn the length of each column apart")

  @property
  def scale(self) -> float:
    """S, what A B is multiplied by."""
    return self.alpha / (self.rank**0.5 if self.stabilised else self.rank)

  def arrays(self, base: Base) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for site in base.sites(self.targets, "--peft.targets"):
      kernel = trees.get(base.params, f"{site.path}/kernel")
      for name, leaf in self._leaves(site, kernel, base.key).items():
        trees.put(out, f"{site.path}/{name}", leaf)
    return out

  def _leaves(
    self, site: Site, kernel: jax.Array, key: jax.Array
  ) -> dict[str, Any]:
    s, shape, suffix = site.split, site.shape, site.suffix
    dtype, layers = kernel.dtype, shape[:1]
    bound = site.num_inputs**-0.5
    a = jax.random.uniform(
      keys.stream(key, site.path),
      (*shape[:s], self.rank),
      dtype,
      -bound,
      bound,
    )
    b = jnp.zeros((*layers, self.rank, *shape[s:]), dtype)
    out = {
      "a": axes.box(a, suffix[:s] + "R"),
      "b": axes.box(b, "LR" + suffix[s:]),
      "scale": axes.box(jnp.full(layers, self.scale, dtype), "L"),
    }
    if self.dropout:
      out["dropout"] = axes.box(jnp.full(layers, self.dropout, dtype), "L")
    if self.dora:
      norm = jnp.sqrt((kernel * kernel).sum(tuple(range(1, s))))
      out["magnitude"] = axes.box(norm, "L" + suffix[s:])
    return out
