"""--init_from=hf:PATH: a folder of the ecosystem as the base of a run.

The folder says what weights mean: all settings of shape. The experiment says
how they are computed with.
"""

from collections.abc import Collection
import dataclasses
import operator
import pathlib
from typing import Any

from llm_jax import config, storage
from llm_jax.contracts import Progress
from llm_jax.interop import families, reading
from llm_jax.interop.folder import Folder
from llm_jax.models.config import TransformerConfig
from llm_jax.models.shape import Shape

PREFIX = "hf:"
# Settings of a model that change how it is computed or trained, not what its
# weights mean: these are the experiment's own.
OWN = (
  *("dropout", "init_std", "dtype", "attention", "context_attention"),
  *("unroll", "remat", "stage_microbatches", "stage_remat", "head_chunk"),
  *("outputs", "experts.balance", "experts.z_loss"),
)


def is_folder(given: str | None) -> bool:
  """Whether a flag names a folder of the ecosystem, and no run."""
  return given is not None and given.startswith(PREFIX)


def folder(given: str, flag: str = "init_from") -> Folder:
  """The folder that a flag names; ValueError where it holds no model."""
  path = storage.local(given.removeprefix(PREFIX), flag).expanduser()
  return Folder(path, f"--{flag}={given}")


def path(given: str, flag: str = "init_from") -> pathlib.Path:
  """Where the folder is."""
  return storage.local(given.removeprefix(PREFIX), flag).expanduser()


def model(
  given: str, own: Shape, fixed: Collection[str] = ()
) -> TransformerConfig:
  """The model that a folder holds, computed as an experiment says.

  Args:
    given: "hf:PATH".
    own: the experiment's model.
    fixed: settings of it that were given as flags, without "model.".

  Raises:
    ValueError: no model that is known, or a flag that says something else.
  """
  found = _as_settings(families.settings(folder(given)))
  if not isinstance(own, TransformerConfig):
    raise ValueError(
      f"--init_from={given}: is a {found.kind}, and --model is a {own.kind} one"
    )
  return adopted(found, own, fixed, f"--init_from={given}")


def adopted(
  found: TransformerConfig,
  own: TransformerConfig,
  fixed: Collection[str],
  given: str,
) -> TransformerConfig:
  """What weights mean as in one model, and the rest as in another."""
  out: Any = found
  for name in OWN:
    if name != "outputs" or own.outputs:
      out = _put(out, name.split("."), operator.attrgetter(name)(own))
  for name in fixed:
    old, new = (operator.attrgetter(name)(its) for its in (out, own))
    if old != new:
      raise ValueError(f"--model.{name}={new}: the model of {given} has {old}")
  return out


def differing(old: Shape, new: Shape) -> str:
  """In what a model differs from another, in a line; "" where in nothing."""
  changed = config.differences(config.to_json(old), config.to_json(new))
  return ", ".join(f"{name}={its[1]}" for name, its in changed.items())


def params(
  given: str,
  flag: str,
  shape: Shape,
  abstract: Any,
  suffixes: Any,
  progress: Progress,
) -> Any:
  """A folder's weights, placed; without an output head where it has none.

  Args:
    given: "hf:PATH".
    flag: that named it, for errors.
    shape: of the model that they are for.
    abstract: its params, as shapes with shardings.
    suffixes: their dims.
    progress: shows that it goes on.

  Raises:
    ValueError: the folder's model is another, or its tensors are not those
      that its config.json says.
  """
  where = folder(given, flag)
  said = families.settings(where)
  assert isinstance(shape, TransformerConfig)  # `model` has seen to it
  there = adopted(_as_settings(said), shape, (), where.given)
  if there != shape:
    raise ValueError(
      f"{where.given}: is another model than the run's:"
      f" {differing(shape, there)} there"
    )
  family = families.of(where)
  lines = family.lines({**said, "outputs": shape.outputs})
  return reading.params(
    where, family, lines, abstract, suffixes, progress, new=("output_head",)
  )


def _as_settings(found: dict[str, Any]) -> TransformerConfig:
  """A model of the settings that are told, all others as they are by default.

  Raises:
    ValueError: what the settings themselves refuse.
  """
  out = TransformerConfig()
  new = {
    name: dataclasses.replace(getattr(out, name), **its)
    if isinstance(its, dict)
    else its
    for name, its in found.items()
  }
  return dataclasses.replace(out, **new)


def _put(settings: Any, names: list[str], value: Any) -> Any:
  name, *rest = names
  if rest:
    value = _put(getattr(settings, name), rest, value)
  return dataclasses.replace(settings, **{name: value})
