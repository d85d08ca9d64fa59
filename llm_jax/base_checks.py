"""Whether a run's weights can be the base of a model."""

from collections.abc import Callable
import operator
import pathlib
from typing import Any

from llm_jax import trees
from llm_jax.models.shape import Shape


def meaning(flag: str, folder: pathlib.Path, there: Shape, here: Shape) -> None:
  """ValueError where a run's weights mean another model than they are for.

  Args:
    flag: that names the run.
    folder: of the run.
    there: its model.
    here: the model that they are for.
  """
  if there.kind != here.kind:
    raise ValueError(
      f"--{flag}={folder}: the weights of a {there.kind} model, and --model is"
      f" a {here.kind} one"
    )
  for name in here.meaning:
    read = operator.attrgetter(name)
    if (old := read(there)) != (new := read(here)):
      raise ValueError(
        f"--model.{name}={new}: the weights of --{flag}={folder} were"
        f" trained with {old}"
      )


def shapes(
  given: str, there: Any, here: Any, optional: Callable[[str], bool]
) -> None:
  """ValueError where two bases are not of one shape; names the first."""
  shapes = [
    {p: list(x.shape) for p, x in trees.paths(t)} for t in (there, here)
  ]
  for path in [*shapes[0], *shapes[1]]:
    if optional(path) and len({path in s for s in shapes}) > 1:
      continue  # it begins anew here, or is left there
    old, new = (s.get(path, "nothing") for s in shapes)
    if old != new:
      raise ValueError(
        f"{given}: {path} is {old} there and {new} here; --model"
        " must have the shape of that run"
      )
