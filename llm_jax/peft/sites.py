"""The dense maps of a model, by name: where adapters can go."""

from collections.abc import Iterator, Sequence
import fnmatch
import math
from typing import Any, NamedTuple

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


def sites(params: Any, suffixes: Any) -> Iterator[Site]:
  """Every dense map of the blocks."""
  for path, suffix in trees.paths(suffixes):
    at, _, leaf = path.rpartition("/")
    if leaf == "kernel" and suffix.startswith("L"):
      name = at.removeprefix("blocks/")
      yield Site(name, at, suffix, trees.get(params, path).shape)


def matching(
  params: Any, suffixes: Any, patterns: Sequence[str], flag: str
) -> list[Site]:
  """Maps whose name one of the patterns matches ("attention/*").

  Raises:
    ValueError: a pattern that matches none; `flag` is where it was given.
  """
  every = list(sites(params, suffixes))
  for pattern in patterns:
    if not any(fnmatch.fnmatchcase(s.name, pattern) for s in every):
      names = ", ".join(s.name for s in every)
      raise ValueError(f"{flag}={pattern}: matches none of {names}")
  return [
    s for s in every if any(fnmatch.fnmatchcase(s.name, p) for p in patterns)
  ]
