"""What every mixture of sources has, and how its errors name a source."""

import abc
from collections.abc import Callable, Sequence
import dataclasses
import math
import pathlib
from typing import Any

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import cache, prepared


@dataclasses.dataclass(frozen=True)
class Mixture(abc.ABC):
  """Weighted sources, parted into splits."""

  sources: tuple[Any, ...]
  weights: tuple[float, ...] = field(
    (), "share of examples from each source; none = as many as it has"
  )
  validation: float = field(0.05, "share held out", low=0, high=1)
  test: float = field(0.0, "second share held out", low=0, high=1)
  cache: str | None = field(
    None, "folder of prepared data; none = ~/.cache/llm_jax"
  )

  def __post_init__(self) -> None:
    if not self.sources:
      raise ValueError("data needs at least one source")
    given, count = self.weights, len(self.sources)
    if given and (
      len(given) != count or not all(0 < w < math.inf for w in given)
    ):
      raise ValueError(
        f"--data.weights={','.join(map(str, given))}: one positive"
        f" number for each of {count} sources"
      )
    if self.validation + self.test >= 1:
      raise ValueError(
        f"--data.validation={self.validation} --data.test={self.test}:"
        " nothing is left to train on"
      )

  @abc.abstractmethod
  def prepare(self, progress: Progress) -> Any:
    """Reads every source once, or finds it in the cache."""

  def documents(
    self, sources: Sequence[prepared.Documents], progress: Progress
  ) -> tuple[pathlib.Path, list[prepared.Prepared]]:
    """The cache, and documents read once, or found there."""
    folder = cache.folder(self.cache)
    return folder, [
      of_source(i, prepared.prepare, s, folder, progress)
      for i, s in enumerate(sources)
    ]


def of_source(index: int, make: Callable[..., Any], *args: Any) -> Any:
  """What `make` makes; an error names the source's place in the flags."""
  flag = f"--data.sources.{index}"
  try:
    return make(*args)
  except ValueError as e:
    said = str(e).replace("--data.sources.N", flag)
    raise ValueError(said if flag in said else f"{said} ({flag})") from e
