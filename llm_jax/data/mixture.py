"""What every mixture of sources checks, and how its errors name a source."""

from collections.abc import Callable, Sequence
import math
from typing import Any


def check(
  weights: Sequence[float],
  num_sources: int,
  validation: float,
  test: float,
) -> None:
  """ValueError where weights and shares cannot be meant."""
  if not num_sources:
    raise ValueError("data needs at least one source")
  if weights and (
    len(weights) != num_sources or not all(0 < w < math.inf for w in weights)
  ):
    raise ValueError(
      f"--data.weights={','.join(map(str, weights))}: one positive"
      f" number for each of {num_sources} sources"
    )
  if validation + test >= 1:
    raise ValueError(
      f"--data.validation={validation} --data.test={test}:"
      " nothing is left to train on"
    )


def of_source(index: int, make: Callable[..., Any], *args: Any) -> Any:
  """What `make` makes; an error names the source's place in the flags."""
  flag = f"--data.sources.{index}"
  try:
    return make(*args)
  except ValueError as e:
    said = str(e).replace("--data.sources.N", flag)
    raise ValueError(said if flag in said else f"{said} ({flag})") from e
