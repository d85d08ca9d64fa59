"""Curves of a run that learns from what it draws itself."""

from typing import Any

import numpy as np

from llm_jax.reporting import results
from llm_jax.reporting.answers import COLOURS
from llm_jax.reporting.curves import Line
from llm_jax.reporting.lines import both, noisy
from llm_jax.reporting.numerals import named

Told = tuple[str, str, list[Line], dict[str, Any]]  # title, unit, lines, axis
_ACROSS = "KL from the reference, nats a completion"


def draws(rows: results.Rows) -> bool:
  """Whether rows tell the scores of drawn completions."""
  return all(rows.curve("train", name)[0] for name in ("score", "length"))


def pictures(rows: results.Rows, per_update: int) -> list[Told]:
  """What is drawn of them, see `curves.draw`.

  Args:
    rows: of the run.
    per_update: steps that learn from the same drawn completions.
  """
  several = lambda *names: [
    line
    for name, colour in zip(names, COLOURS, strict=False)
    for line in noisy(named(name), *rows.curve("train", name), colour)
  ]
  parts = [n for n in rows.names("train") if n.startswith("part_")]
  level: dict[str, Any] = {"linear": True}
  return [
    (
      "Score against KL",
      "a point an update",
      against(rows, per_update),
      level | {"across": _ACROSS, "root": True},
    ),
    ("Score", "", both(rows, "score"), level),
    ("Parts of the score", "", several(*parts), level),
    ("KL from the reference", "nats a completion", both(rows, "kl"), level),
    ("Length", "tokens a completion", both(rows, "length"), {"zero": True}),
    ("Completions that ended", "share", both(rows, "ended"), {"zero": True}),
    ("Entropy", "nats/token", several("entropy"), level),
    ("Clipped", "share", several("clipped", "value_clipped"), {"zero": True}),
    ("Losses", "", several("policy_loss", "value_loss", "kl_loss"), level),
  ]


def against(rows: results.Rows, per_update: int) -> list[Line]:
  """The mean score of each update over its mean KL, and of each validation.

  An update's rows are minibatches of the same completions. Where a run began
  and where it is are told by number.
  """
  lines = []
  for split, size, colour, word in (
    ("train", per_update, "first", "update"),
    ("validation", 1, "second", "step"),
  ):
    x, y = (_means(rows, split, name, size) for name in ("kl", "score"))
    known = sorted(x.keys() & y.keys())
    notes = [""] * len(known)
    for at in {0, len(known) - 1} if known else ():
      notes[at] = f"{word} {known[at]}"
    lines.append(
      Line(
        "drawn to learn from" if split == "train" else "held out",
        [x[n] for n in known],
        [y[n] for n in known],
        colour,
        notes=notes,
      )
    )
  return lines


def _means(
  rows: results.Rows, split: str, name: str, size: int
) -> dict[int, float]:
  """{number of the update, from 1: mean of its finite values}."""
  steps, values = rows.curve(split, name)
  found: dict[int, list[float]] = {}
  for step, value in zip(steps, values, strict=True):
    if np.isfinite(value):
      found.setdefault(-(-step // max(size, 1)), []).append(value)
  return {n: float(np.mean(its)) for n, its in found.items()}
