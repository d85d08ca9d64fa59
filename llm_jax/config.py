"""Documented settings, and their doors to absl flags and to JSON.

A setting is a leaf of a frozen dataclass, made with `field`. Its dotted path
is its flag: `--objective.z_loss=1e-4`.
"""

from collections.abc import Callable, Iterator
import csv
import dataclasses
import importlib
import io
import math
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
    elif not _is_empty_group(value, hints[f.name]):
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
    # A setting given twice is an error: one of the two would not be read.
    flag: flags.Flag = flags.Flag(
      _Parser(leaf),
      None,
      leaf.name,
      leaf.value,
      leaf.help,
      boolean=leaf.hint is bool,
      allow_overwrite=False,
    )
    flags.DEFINE_flag(flag, flag_values)


def allowed(leaf: Leaf) -> str:
  """What a leaf may be, in words: "a whole number, at least 1"."""
  hint, optional = _without_none(leaf.hint)
  origin = typing.get_origin(hint)
  if origin is Literal:
    words = f"one of {', '.join(map(str, typing.get_args(hint)))}"
  elif origin is tuple:
    kind = typing.get_args(hint)[0]
    words = f"{_MANY[kind]}, between commas"
  else:
    words = _ONE[hint]
  low, high = leaf.low, leaf.high
  if low is not None and high is not None:
    words += f", from {low} to {high}"
  elif low is not None:
    words += f", at least {low}"
  elif high is not None:
    words += f", at most {high}"
  return f"{words}, or none (= off)" if optional else words


def fits(leaf: Leaf) -> bool:
  """Whether a leaf's value is of its type and within its bounds."""
  hint, optional = _without_none(leaf.hint)
  if leaf.value is None:
    return optional
  try:
    return _fits(hint, leaf)
  except OverflowError:  # of a whole number that no float can be
    return False


def _fits(hint: Any, leaf: Leaf) -> bool:
  value, origin = leaf.value, typing.get_origin(hint)
  if origin is Literal:
    return value in typing.get_args(hint)
  if origin is tuple:
    kind = typing.get_args(hint)[0]
    return isinstance(value, tuple | list) and all(
      fits(leaf._replace(hint=kind, value=one)) for one in value
    )
  if hint in (int, float):
    if isinstance(value, bool) or not isinstance(value, int | float):
      return False
    low, high = leaf.low, leaf.high
    return (
      (hint is float or isinstance(value, int))
      and math.isfinite(value)
      and (low is None or value >= low)
      and (high is None or value <= high)
    )
  return isinstance(value, hint)


def resolve(
  config: T,
  flag_values: flags.FlagValues = flags.FLAGS,
  prefix: str = "",
) -> T:
  """`config` with every leaf whose flag was given replaced by its value."""
  new = {}
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
      value = flag_values[name].value
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
  """The inverse of `to_json`. Only classes of this package are made.

  A setting that is gone is dropped; one that is new takes its default.

  Raises:
    ValueError: a class that is not, or no longer, of this package.
  """
  if isinstance(value, list):
    return tuple(from_json(v) for v in value)
  if not isinstance(value, dict):
    return value
  module, _, name = value.get("class", "").partition(":")
  if not module.startswith("llm_jax."):
    raise ValueError(f"settings name a class outside llm_jax: {module}:{name}")
  try:
    kind = getattr(importlib.import_module(module), name)
    known = {f.name for f in dataclasses.fields(kind)}
  except (ImportError, AttributeError, TypeError) as e:
    raise ValueError(f"settings name {module}:{name}, which is gone") from e
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
  # 1 is 1.0, but not True.
  same = old == new and isinstance(old, bool) == isinstance(new, bool)
  return {} if same else {prefix[:-1]: (old, new)}


def _is_group(value: Any) -> bool:
  """A tuple of dataclasses: settings `name.0.x`, `name.1.x`, ..."""
  return (
    isinstance(value, tuple)
    and bool(value)
    and all(dataclasses.is_dataclass(v) for v in value)
  )


def _is_empty_group(value: Any, hint: Any) -> bool:
  """No dataclasses, where there may be some."""
  kinds = typing.get_args(hint)[:1]
  if kinds and isinstance(kinds[0], types.UnionType):
    kinds = typing.get_args(kinds[0])
  return value == () and all(map(dataclasses.is_dataclass, kinds or [None]))


def _without_none(hint: Any) -> tuple[Any, bool]:
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    rest = [a for a in typing.get_args(hint) if a is not type(None)]
    if len(rest) == 1:
      return rest[0], True
  return hint, False


_ONE = {
  bool: "true or false",
  int: "a whole number",
  float: "a finite number",
  str: "text",
}
_MANY = {int: "whole numbers", float: "finite numbers", str: "texts"}
_BOOLS = {"true": True, "t": True, "1": True}
_BOOLS |= {"false": False, "f": False, "0": False}


class _Parser(flags.ArgumentParser):
  """The text of a flag -> the value of a leaf."""

  def __init__(self, leaf: Leaf):
    self._leaf = leaf
    self._hint, self._optional = _without_none(leaf.hint)
    if self._of(self._hint) is None:
      raise TypeError(
        f"--{leaf.name}: no flag for a setting of type {leaf.hint}"
      )
    self.syntactic_help = allowed(leaf)

  def parse(self, argument: Any) -> Any:
    if not isinstance(argument, str):
      return argument  # the default
    if self._optional and argument.lower() == "none":
      return None
    read = self._of(self._hint)
    try:
      assert read is not None
      return read(argument)
    except (ValueError, KeyError, OverflowError) as e:
      raise ValueError(f"must be {allowed(self._leaf)}") from e

  def flag_type(self) -> str:
    return self.syntactic_help

  def _of(self, hint: Any) -> Callable[[str], Any] | None:
    """What reads a value of this type; None where nothing does."""
    origin = typing.get_origin(hint)
    if origin is Literal:
      return {str(c): c for c in typing.get_args(hint)}.__getitem__
    if origin is tuple:
      kinds = typing.get_args(hint)
      if len(kinds) != 2 or kinds[0] not in _MANY or kinds[1] is not ...:
        return None
      one = self._of(kinds[0])
      assert one is not None
      return lambda text: tuple(map(one, _parts(text)))
    readers: dict[Any, Callable[[str], Any]] = {
      bool: lambda text: _BOOLS[text.lower()],
      int: lambda text: self._bounded(int(text)),
      float: lambda text: self._bounded(float(text)),
      str: lambda text: text,
    }
    return readers.get(hint)

  def _bounded(self, value: float) -> float:
    low, high = self._leaf.low, self._leaf.high
    is_inside = (low is None or value >= low) and (
      high is None or value <= high
    )
    if not (math.isfinite(value) and is_inside):
      raise ValueError(value)
    return value


def _parts(text: str) -> list[str]:
  """Parts between commas; a part in double quotes may hold commas."""
  try:
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
  except csv.Error as e:
    raise ValueError(text) from e
  if len(rows) > 1:
    raise ValueError(text)
  return rows[0] if rows else []
