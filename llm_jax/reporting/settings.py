"""The settings in experiment.json, grouped, beside their defaults."""

from collections.abc import Iterator
import dataclasses
import importlib
import json
from typing import Any

from llm_jax import config


@dataclasses.dataclass(frozen=True)
class Setting:
  """One leaf as the run folder holds it."""

  flag: str  # model.num_layers
  name: str  # num_layers, as its group shows it
  value: str
  help: str
  default: str | None  # None where the class or the leaf is not known here

  @property
  def changed(self) -> bool:
    """Whether the value is known to differ from the default."""
    return self.default is not None and self.default != self.value


@dataclasses.dataclass(frozen=True)
class Group:
  """The settings under one first name."""

  name: str
  kind: str  # its class
  changed: bool  # whether that class is another than the default one
  settings: list[Setting]


def groups(settings: Any) -> list[Group]:
  """Those of `config.to_json`, the run's own first; [] where none are held."""
  if not isinstance(settings, dict):
    return []
  default, about = _known(settings)
  plain, found = {}, []
  for name, value in _items(settings):
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
      for i, one in enumerate(v for v in value if isinstance(v, dict)):
        leaves = _walk(one, None, f"{name}.{i}.", "")
        found.append(Group(f"{name}.{i}", kind(one), False, leaves))
      continue
    if not isinstance(value, dict):
      plain[name] = value
      continue
    usual = default.get(name)
    found.append(
      Group(
        name,
        kind(value),
        isinstance(usual, dict) and kind(usual) != kind(value),
        _walk(value, usual, f"{name}.", ""),
      )
    )
  own = [
    _leaf(n, n, v, default.get(n, ...), about.get(n, ""))
    for n, v in plain.items()
  ]
  return [Group("run", "", False, own), *found] if own else found


def kind(value: Any) -> str:
  """The class's own name of a dataclass in its JSON form."""
  name = value.get("class", "") if isinstance(value, dict) else ""
  return str(name).partition(":")[2]


def _walk(value: dict, usual: Any, flags: str, names: str) -> list[Setting]:
  default, about = _known(value)
  if isinstance(usual, dict) and kind(usual) == kind(value):
    default = usual  # what holds it may have defaults of its own
  out: list[Setting] = []
  for name, part in _items(value):
    flag, short, given = f"{flags}{name}", f"{names}{name}", default.get(name)
    if isinstance(part, dict):
      out += _walk(part, given, f"{flag}.", f"{short}.")
    elif isinstance(part, list) and any(isinstance(p, dict) for p in part):
      for i, one in enumerate(part):
        out.append(_leaf(f"{flag}.{i}", f"{short}.{i}", kind(one), ..., ""))
        if isinstance(one, dict):
          out += _walk(one, None, f"{flag}.{i}.", f"{short}.{i}.")
    else:
      known = default.get(name, ...)
      out.append(_leaf(flag, short, part, known, about.get(name, "")))
  return out


def _leaf(flag: str, name: str, value: Any, default: Any, text: str) -> Setting:
  usual = None if default is ... else shown(default)
  return Setting(flag, name, shown(value), text, usual)


def shown(value: Any) -> str:
  """A value as one reads it: none, numbers short, other text as it is."""
  if value is None:
    return "none"
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, float):
    return f"{value:.10g}"
  if isinstance(value, str):
    return value if value.strip() == value != "" else json.dumps(value)
  if isinstance(value, list):
    return ", ".join(json.dumps(v, ensure_ascii=False) for v in value) or "none"
  return str(value)


def _items(value: dict) -> list[tuple[str, Any]]:
  return [(k, v) for k, v in value.items() if k != "class"]


def _known(value: dict) -> tuple[dict[str, Any], dict[str, str]]:
  """Defaults and help of a class of this package; empty of any other."""
  module, _, name = str(value.get("class", "")).partition(":")
  if not module.startswith("llm_jax."):
    return {}, {}
  try:
    found = getattr(importlib.import_module(module), name)
    fields = dataclasses.fields(found)
    default = config.to_json(found())
  except (ImportError, AttributeError, TypeError, ValueError):
    return {}, {}  # gone since the run was made
  return default, {f.name: f.metadata.get("help", "") for f in fields}


def flat(value: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of every leaf; of a class, its name in its place."""
  for name, part in _items(value):
    parts = part if isinstance(part, list) else [part]
    if not any(isinstance(p, dict) for p in parts):
      yield f"{prefix}{name}", part
      continue
    for i, one in enumerate(parts):
      here = f"{prefix}{name}.{i}" if isinstance(part, list) else prefix + name
      if isinstance(one, dict):
        yield here, kind(one)
        yield from flat(one, f"{here}.")
