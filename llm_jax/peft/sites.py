"""A base and its dense maps, by name: where adapters can go."""

from collections.abc import Callable, Sequence
import fnmatch
import math
from typing import Any, NamedTuple

import jax

from llm_jax import axes, trees


class Site(NamedTuple):
  """A dense map, stacked over layers."""

  name: str  # "attention/query"
  path: str  # "blocks/attention/query", in every collection
  suffix: str  # "LDNH", of its kernel
  shape: tuple[int, ...]

  @property
  def split(self) -> int:
    """Dims before this one are layers and inputs, the others outputs."""
    return 1 + axes.num_inputs(self.suffix)

  @property
  def num_inputs(self) -> int:
    """Size of all contracted dims."""
    return math.prod(self.shape[1 : self.split])


class Base(NamedTuple):
  """What adapters are made for.

  Attributes:
    params: its arrays.
    suffixes: tree of their suffixes ("LDF", ...).
    key: of the adapters' draws.
    encode: text -> ids, for soft prompts.
  """

  params: Any
  suffixes: Any
  key: jax.Array
  encode: Callable[[str], Sequence[int]]

  def like(self, path: str, method: str) -> jax.Array:
    """A parameter that new ones stand beside; ValueError without it."""
    found = trees.get(self.params, path)
    if found is None:
      raise ValueError(
        f"--peft ({method}): not for a model without {path.rpartition('/')[0]}"
      )
    return found

  def sites(self, patterns: Sequence[str], flag: str) -> list[Site]:
    """Maps of the blocks whose name a pattern matches ("attention/*").

    Raises:
      ValueError: a pattern that matches none; `flag` is where it was given.
    """
    every = []
    for path, suffix in trees.paths(self.suffixes):
      at, _, leaf = path.rpartition("/")
      # No adapter is made for each expert apart.
      if leaf == "kernel" and axes.num_stacked(suffix) == 1:
        shape = trees.get(self.params, path).shape
        every.append(Site(at.removeprefix("blocks/"), at, suffix, shape))
    for pattern in patterns:
      if not any(fnmatch.fnmatchcase(s.name, pattern) for s in every):
        names = ", ".join(s.name for s in every)
        raise ValueError(f"{flag}={pattern}: matches none of {names}")
    return [
      s for s in every if any(fnmatch.fnmatchcase(s.name, p) for p in patterns)
    ]
