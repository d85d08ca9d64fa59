"""What a run says of preferences, for the report and the terminal."""

import dataclasses
from typing import Any

from llm_jax.reporting import curves
from llm_jax.reporting.curves import Line
from llm_jax.reporting.numerals import count, finite, number

COLUMNS = ("accuracy", "margin", "ece", "chosen_longer", "chosen_shorter")


@dataclasses.dataclass(frozen=True)
class Told:
  """Facts in words, and the calibration curve as SVG, "" without one."""

  facts: list[tuple[str, str]]
  svg: str


def compares(measures: dict[str, Any]) -> bool:
  """Whether measures are of completions compared, not of a text."""
  known = {name for name, v in measures.items() if number(v) is not None}
  return "accuracy" in known and not known & {"bits_per_byte", "perplexity"}


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
  """Name and value of what evaluation.json says beside its table."""
  results = found.get("results")
  model = results.get("model") if isinstance(results, dict) else None
  model = model if isinstance(model, dict) else {}
  if not compares(model):
    return []
  out, get = [], lambda name: number(model.get(name))
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
    out.append(
      ("reward of mean 0, deviation 1", f"{gain:.3f} r {sign} {abs(bias):.3f}")
    )
  return out


def told(found: dict[str, Any]) -> Told | None:
  """What evaluation.json says; None where it says nothing."""
  known, svg = facts(found), _calibration(found.get("calibration"))
  return Told(known, svg) if known or svg else None


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
  lines = [
    Line("as sure as right", [0.5, 1], [0.5, 1], "third", faint=True),
    Line("accuracy", [x for x, _ in points], [y for _, y in points], "first"),
  ]
  return curves.draw(
    "Accuracy by confidence", lines, linear=True, across="confidence"
  )
