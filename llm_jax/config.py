"""Documented settings, and their doors to absl flags and to JSON.

A setting is a leaf of a frozen dataclass, made with `field`. Its dotted path
is its flag: `--objective.z_loss=1e-4`.
"""

from collections.abc import Iterator
import dataclasses
import importlib
import types
import typing
from typing import Any, Literal, NamedTuple, TypeVar

from absl import flags

T = TypeVar("T")


class Leaf(NamedTuple):
  """One setting: its dotted name, type, value, help and bounds."""

  name: str
  hint: Any
  value: Any
  help: str
  low: float | None
  high: float | None


def field(
  default: Any,
  help_: str,
  *,
  low: float | None = None,
  high: float | None = None,
) -> Any:
  """A documented leaf. `low` and `high` are inclusive bounds on numbers."""
  if dataclasses.is_dataclass(default) and not isinstance(default, type):
    raise TypeError("a nested dataclass is not a leaf: assign it directly")
  return dataclasses.field(
    default=default, metadata={"help": help_, "low": low, "high": high}
  )


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
  """Yields each leaf in field order."""
  hints = typing.get_type_hints(type(config))
  for f in dataclasses.fields(config):
    value, name = getattr(config, f.name), f"{prefix}{f.name}"
    if dataclasses.is_dataclass(value):
      yield from leaves(value, f"{name}.")
    elif _is_group(value):
      for i, part in enumerate(value):
        yield from leaves(part, f"{name}.{i}.")
    else:
      m = f.metadata
      yield Leaf(
        name,
        hints[f.name],
        value,
        m.get("help", ""),
        m.get("low"),
        m.get("high"),
      )


def define(config: Any, flag_values: flags.FlagValues = flags.FLAGS) -> None:
  """Registers one absl flag per leaf, named by its path."""
  for leaf in leaves(config):
    hint, optional = _without_none(leaf.hint)
    kwargs: dict[str, Any] = {
      "name": leaf.name,
      "default": leaf.value,
      "help": leaf.help + (" ('none' = off)" if optional else ""),
      "flag_values": flag_values,
    }
    if optional:
      flags.DEFINE(parser=_Optional(hint, leaf), **kwargs)
    elif typing.get_origin(hint) is Literal:
      choices = [str(c) for c in typing.get_args(hint)]
      flags.DEFINE_enum(enum_values=choices, **kwargs)
    elif typing.get_origin(hint) is tuple:
      kwargs["default"] = [str(v) for v in leaf.value]
      flags.DEFINE_list(**kwargs)
    elif hint is bool:
      flags.DEFINE_bool(**kwargs)
    elif hint is int:
      flags.DEFINE_integer(
        lower_bound=_int(leaf.low), upper_bound=_int(leaf.high), **kwargs
      )
    elif hint is float:
      flags.DEFINE_float(lower_bound=leaf.low, upper_bound=leaf.high, **kwargs)
    elif hint is str:
      flags.DEFINE_string(**kwargs)
    else:
      raise TypeError(f"--{leaf.name}: no flag for a setting of type {hint}")


def resolve(
  config: T,
  flag_values: flags.FlagValues = flags.FLAGS,
  prefix: str = "",
) -> T:
  """`config` with every leaf whose flag was given replaced by its value."""
  hints, new = typing.get_type_hints(type(config)), {}
  for f in dataclasses.fields(config):  # type: ignore[arg-type]
    value, name = getattr(config, f.name), f"{prefix}{f.name}"
    if dataclasses.is_dataclass(value):
      value = resolve(value, flag_values, f"{name}.")
    elif _is_group(value):
      value = tuple(
        resolve(part, flag_values, f"{name}.{i}.")
        for i, part in enumerate(value)
      )
    elif name in flag_values and flag_values[name].present:
      value = _convert(hints[f.name], flag_values[name].value, name)
    new[f.name] = value
  return type(config)(**new)


def to_json(config: Any) -> Any:
  """A dataclass as plain JSON values; classes are kept under "class"."""
  if dataclasses.is_dataclass(config) and not isinstance(config, type):
    kind = type(config)
    return {"class": f"{kind.__module__}:{kind.__qualname__}"} | {
      f.name: to_json(getattr(config, f.name))
      for f in dataclasses.fields(config)
    }
  if isinstance(config, tuple | list):
    return [to_json(v) for v in config]
  return config


def from_json(value: Any) -> Any:
  """The inverse of `to_json`. Only classes of this package are made."""
  if isinstance(value, list):
    return tuple(from_json(v) for v in value)
  if not isinstance(value, dict):
    return value
  module, _, name = value["class"].partition(":")
  if not module.startswith("llm_jax."):
    raise ValueError(f"settings name a class outside llm_jax: {module}:{name}")
  kind = getattr(importlib.import_module(module), name)
  known = {f.name for f in dataclasses.fields(kind)}
  # A setting that is gone is dropped; one that is new takes its default.
  return kind(**{k: from_json(v) for k, v in value.items() if k in known})


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple]:
  """{dotted name: (old, new)} between two JSON forms."""
  if isinstance(old, dict) and isinstance(new, dict):
    out: dict[str, tuple] = {}
    for k in [*old, *(k for k in new if k not in old)]:
      out |= differences(old.get(k), new.get(k), f"{prefix}{k}.")
    return out
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    out = {}
    for i, (a, b) in enumerate(zip(old, new, strict=True)):
      out |= differences(a, b, f"{prefix}{i}.")
    return out
  same = old == new and type(old) is type(new)
  return {} if same else {prefix[:-1]: (old, new)}


def _is_group(value: Any) -> bool:
  """A tuple of dataclasses: settings `name.0.x`, `name.1.x`, ..."""
  return (
    isinstance(value, tuple)
    and bool(value)
    and all(dataclasses.is_dataclass(v) for v in value)
  )


def _without_none(hint: Any) -> tuple[Any, bool]:
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    rest = [a for a in typing.get_args(hint) if a is not type(None)]
    if len(rest) == 1:
      return rest[0], True
  return hint, False


def _convert(hint: Any, value: Any, name: str) -> Any:
  hint, _ = _without_none(hint)
  if value is not None and typing.get_origin(hint) is tuple:
    kind = typing.get_args(hint)[0]
    try:
      return tuple(kind(v) for v in value)
    except ValueError as e:
      raise ValueError(
        f"--{name}={','.join(map(str, value))}: each part must be"
        f" {kind.__name__}"
      ) from e
  return value


def _int(x: float | None) -> int | None:
  return None if x is None else int(x)


class _Optional(flags.ArgumentParser):
  """Parses a leaf of type `X | None`; "none" is None."""

  def __init__(self, hint: Any, leaf: Leaf):
    self.hint, self.leaf = hint, leaf
    self.syntactic_help = f"{getattr(hint, '__name__', hint)} or none"

  def parse(self, argument: Any) -> Any:
    if argument is None or str(argument).lower() == "none":
      return None
    if typing.get_origin(self.hint) is Literal:
      choices = [str(c) for c in typing.get_args(self.hint)]
      if argument not in choices:
        raise ValueError(f"value should be one of {'|'.join(choices)} or none")
      return argument
    value = self.hint(argument)
    low, high = self.leaf.low, self.leaf.high
    if (low is not None and value < low) or (high is not None and value > high):
      raise ValueError(f"must be in [{low}, {high}]")
    return value

  def flag_type(self) -> str:
    return self.syntactic_help
