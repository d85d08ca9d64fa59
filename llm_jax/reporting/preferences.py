"""What a run says of preferences, for the report and the terminal."""

import dataclasses
from typing import Any

from llm_jax.reporting import curves
from llm_jax.reporting.curves import Line
from llm_jax.reporting.numerals import count, finite, measure, number

COLUMNS = ("accuracy", "margin", "ece", "chosen_longer", "chosen_shorter")
CLASS_COLUMNS = ("accuracy", "micro_f1", "macro_f1", "matthews", "ece")


@dataclasses.dataclass(frozen=True)
class Class:
  """A class of completions, texts or words, and how well it is told apart."""

  name: str
  examples: str
  precision: str
  recall: str
  f1: str


@dataclasses.dataclass(frozen=True)
class Told:
  """What there is beside the table of measures."""

  facts: list[tuple[str, str]]  # in words
  svg: str  # the calibration curve, "" without one
  of: str  # what the curve is of
  classes: list[Class]
  counted: str  # what each class has some of


def compares(measures: dict[str, Any]) -> bool:
  """Whether measures are of completions compared, not of a text."""
  known = {name for name, v in measures.items() if number(v) is not None}
  return "accuracy" in known and not known & {"bits_per_byte", "perplexity"}


def classifies(measures: dict[str, Any]) -> bool:
  """Whether measures are of completions whose class is told."""
  return number(measures.get("macro_f1")) is not None


def columns(measures: dict[str, Any]) -> tuple[str, ...]:
  """Measures of completions that have a column in tables."""
  return CLASS_COLUMNS if classifies(measures) else COLUMNS


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
  """Name and value of what evaluation.json says beside its table."""
  results = found.get("results")
  model = results.get("model") if isinstance(results, dict) else None
  model = model if isinstance(model, dict) else {}
  if not compares(model):
    return []
  out, get = [], lambda name: number(model.get(name))
  if finite(examples := get("examples")):
    out.append(("examples", f"{count(examples):,}"))
  if finite(pairs := get("pairs")):
    out.append(("pairs", f"{count(pairs):,}"))
  if finite(related := get("length_correlation")):
    out.append(("correlation of reward and length", f"{related:.2f}"))
  if finite(kl := get("kl")):
    error, drawn = get("kl_error"), count(get("completions"))
    about = f" \u00b1 {error:.2f}" if finite(error) else ""
    out.append(
      (
        "KL from the reference",
        f"{kl:.2f}{about} nats a completion, of {drawn:,} drawn",
      )
    )
  line = found.get("reward")
  line = line if isinstance(line, dict) else {}
  gain, bias = number(line.get("gain")), number(line.get("bias"))
  if finite(gain) and finite(bias):
    sign = "-" if bias < 0 else "+"
    size = count(line.get("completions"))
    about = f", of {size:,} reference completions" if size else ""
    scaled = ", deviation 1" if line.get("normalise") != "bias" else ""
    out.append(
      (
        f"reward of mean 0{scaled}",
        f"{gain:.3f} r {sign} {abs(bias):.3f}{about}",
      )
    )
  return out


def of_classes(found: dict[str, Any]) -> list[Class]:
  """What evaluation.json says of each class."""
  given = found.get("classes")
  given = given if isinstance(given, list) else []
  rows = [r for r in given if isinstance(r, dict)]
  share = lambda row, name: measure(name, row.get(name))
  return [
    Class(
      str(row.get("class", "")),
      f"{count(row.get('examples')):,}",
      *(share(row, name) for name in ("precision", "recall", "f1")),
    )
    for row in rows
  ]


def counted(found: dict[str, Any]) -> str:
  """What evaluation.json counts of each class."""
  results = found.get("results")
  model = results.get("model") if isinstance(results, dict) else None
  known = model if isinstance(model, dict) else {}
  if number(known.get("words")) is None:
    return "examples"
  return "words" if number(known.get("f1")) is None else "entities"


def told(found: dict[str, Any]) -> Told | None:
  """What evaluation.json says; None where it says nothing."""
  known, svg = facts(found), _calibration(found.get("calibration"))
  each = of_classes(found)
  of = "examples" if each else "pairs"
  if not (known or svg or each):
    return None
  return Told(known, svg, of, each, counted(found))


def _calibration(given: Any) -> str:
  """Accuracy over confidence, beside where both are the same."""
  points = []
  for row in given if isinstance(given, list) else []:
    row = row if isinstance(row, dict) else {}
    x, y = number(row.get("confidence")), number(row.get("accuracy"))
    if finite(x) and finite(y):
      points.append((x, y))
  if not points:
    return ""
  low = min(0.5, *(x for x, _ in points))
  lines = [
    Line("as sure as right", [low, 1], [low, 1], "third", faint=True),
    Line("accuracy", [x for x, _ in points], [y for _, y in points], "first"),
  ]
  return curves.draw(
    "Accuracy by confidence", lines, linear=True, across="confidence"
  )
