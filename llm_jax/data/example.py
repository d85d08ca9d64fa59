"""One form for every labelled text, or pair of texts."""

import dataclasses
import json
import math
from typing import Any, Literal

import numpy as np

from llm_jax.data import splits

Kind = Literal["classes", "class_sets", "numbers"]
Label = str | tuple[str, ...] | float

_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Example:
  """A text, or two, and what is to be told of it.

  Attributes:
    text: the only text, or the first of two.
    pair: the second.
    label: name of its class, names of its classes, or a number.
    split: that it belongs to; empty = by its place.
    place: in [0, 1), decides the split; None = by a hash of the text, so that
      one text is never in two, whatever is beside it.
  """

  text: str
  label: Label
  pair: str | None = None
  split: str = ""
  place: float | None = None

  def of(self, shares: splits.Shares) -> str:
    """The split that it is in."""
    place = splits.place(self.text) if self.place is None else self.place
    return self.split or shares.at(place)

  def to_json(self) -> str:
    """One line of text."""
    return json.dumps(dataclasses.asdict(self))


def from_json(line: str) -> Example:
  """The inverse of `Example.to_json`."""
  found = Example(**json.loads(line))
  if isinstance(found.label, list):
    return dataclasses.replace(found, label=tuple(found.label))
  return found


def label_of(value: Any, kind: Kind, what: str) -> Label:
  """A label as rows of a kind have it; names without white space around them.

  Args:
    value: as it was read.
    kind: of label.
    what: names the value in errors.

  Raises:
    ValueError: a value of another kind, or none.
  """
  if kind == "classes":
    found = _name(value)
    if found is None:
      raise ValueError(
        f"{what} is {value!r:.60}, not the name or the number of a class"
        f"{_other(value)}"
      )
    return found
  if kind == "class_sets":
    if not isinstance(value, list | tuple):
      raise ValueError(
        f"{what} is {value!r:.60}, not a list of classes (as"
        f" --data.rows={kind} has it); --data.rows=classes has one a text"
      )
    names = tuple(_name(v) for v in value)
    if None in names or len(set(names)) < len(names):
      raise ValueError(
        f"{what} is {value!r:.60}, not a list of names or numbers of classes,"
        " each once"
      )
    return names  # type: ignore[return-value]
  return _number(value, what)


def _name(value: Any) -> str | None:
  """Of a class, without white space around it; None where it is none."""
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float) and value.is_integer():
    value = int(value)  # as tables with holes have whole numbers
  if isinstance(value, int):
    return str(value)
  return (value.strip() or None) if isinstance(value, str) else None


def _number(value: Any, what: str) -> float:
  """A finite float32, of a text, too: a table of text has no others."""
  try:
    found = math.nan if isinstance(value, bool | list) else float(value)
  except (TypeError, ValueError, OverflowError):
    found = math.nan
  if not abs(found) <= _LARGEST:
    raise ValueError(
      f"{what} is {value!r:.60}, not a finite number of 32 bits, as"
      " --data.rows=numbers has it"
    )
  return found


def _other(value: Any) -> str:
  """Which rows have such labels."""
  if isinstance(value, list | tuple):
    return "; --data.rows=class_sets has several a text"
  if isinstance(value, float):
    return "; --data.rows=numbers has a number a text"
  return ""
