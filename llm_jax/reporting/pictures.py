"""Which curves a report shows, from the rows of a run."""

import math
from typing import Any

from llm_jax.reporting import curves, drawn, results
from llm_jax.reporting.curves import Line
from llm_jax.reporting.lines import both, last_of, noisy
from llm_jax.reporting.numerals import finite, quantity


def pictures(
  rows: results.Rows,
  evaluated: results.Evaluation | None,
  per_update: int = 1,
  rewarded: bool = True,
) -> list[dict]:
  """Title, legend and SVG of each curve that the rows hold.

  Args:
    rows: of the run.
    evaluated: whose baselines are levels, if any.
    per_update: steps that learn from the same drawn completions.
    rewarded: whether what is told of a row is a reward, and no mere class.
  """
  out = []

  def add(title: str, unit: str, lines: list[Line], **axis: Any):
    lines = [x for x in lines if any(map(math.isfinite, x.values))]
    if any(len(x.steps) for x in lines):
      svg = curves.draw(title, lines, **axis)
      legend = [x for x in lines if not x.faint]
      out.append({"title": title, "unit": unit, "legend": legend, "svg": svg})

  compares = bool(rows.curve("train", "accuracy")[0])
  if drawn.draws(rows):
    for title, unit, lines, axis in drawn.pictures(rows, per_update):
      add(title, unit, lines, **axis)
  else:
    add("Loss", "" if compares else "nats/token", _losses(rows, evaluated))
  if compares:
    lines = [*both(rows, "accuracy"), *_levels(evaluated, "accuracy")]
    add("Accuracy", "", lines, linear=True)
    add("Margin", "", both(rows, "margin"), linear=True)
    if rewarded:
      add("Reward", "", _rewards(rows), linear=True)
  steps, rate = rows.curve("train", "learning_rate")
  line = Line("last", steps, rate, "first", last_of(rate, "{:.3g}"))
  add("Learning rate", "", [line], zero=True)
  steps, speed = rows.curve("train", "tokens_per_second")
  known = [(s, v) for s, v in zip(steps, speed, strict=True) if v]
  steps, speed = [s for s, _ in known], [v for _, v in known]
  _, shares = rows.curve("train", "mfu")
  last = quantity(speed[-1]) if speed else ""
  last += last_of(shares, ", MFU {:.1%}")
  line = Line("last", steps, speed, "first", last)
  add("Throughput", "tokens/s", [line], zero=True)
  steps, norm = rows.curve("train", "grad_norm")
  add("Gradient norm", "", noisy("gradient norm", steps, norm))
  return out


def gaps(rows: results.Rows) -> list[str]:
  """A line of warning for each split whose loss was not always finite."""
  out = []
  for split in ("train", "validation"):
    steps, loss = rows.curve(split, "loss")
    bad = [s for s, v in zip(steps, loss, strict=True) if not math.isfinite(v)]
    if bad:
      out.append(
        f"The {split} loss was not finite in {len(bad):,} of {len(loss):,}"
        f" rows, first at step {bad[0]:,}; the curve has gaps there."
      )
  return out


def _losses(
  rows: results.Rows, evaluated: results.Evaluation | None
) -> list[Line]:
  return [*both(rows, "loss"), *_levels(evaluated, "loss")]


def _levels(evaluated: results.Evaluation | None, name: str) -> list[Line]:
  """What baselines reach."""
  lines, colours = [], iter(("third", "fourth"))
  for key, result in (evaluated.results if evaluated else {}).items():
    level = result.measures.get(name)
    if key != "model" and finite(level):
      colour = next(colours, "fourth")
      lines.append(Line(result.name, [], [level], colour, f"{level:.3f}"))
  return lines


def _rewards(rows: results.Rows) -> list[Line]:
  """Of chosen and rejected completions, or of all."""
  lines = []
  for name, colour in (
    ("reward_chosen", "fourth"),
    ("reward_rejected", "second"),
    ("reward", "first"),
  ):
    given = rows.curve("train", name)
    called = name.removeprefix("reward_")
    lines += noisy(called if called != "reward" else "mean", *given, colour)
  return lines
