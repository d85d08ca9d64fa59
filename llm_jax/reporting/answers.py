"""Answers that were drawn, and what the best of n is worth, for reports."""

import dataclasses
from typing import Any

from llm_jax.reporting import curves
from llm_jax.reporting.curves import Line
from llm_jax.reporting.numerals import count, finite, named, number

COLOURS = ("first", "second", "fourth", "third")
SHOWN = 4  # questions whose answers are shown, at most


@dataclasses.dataclass(frozen=True)
class Picture:
  """A curve with its legend, as pages show it."""

  title: str
  unit: str
  legend: list[Line]
  svg: str


@dataclasses.dataclass(frozen=True)
class Answer:
  """A question, and one answer that was drawn to it."""

  prompt: str
  text: str
  scores: str  # in words


def said(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """By dataset, what evaluation.json says of drawn answers."""
  given = found.get("said")
  given = given if isinstance(given, dict) else {}
  return {str(k): v for k, v in given.items() if isinstance(v, dict)}


def best_of(runs: dict[str, dict[str, Any]]) -> list[Picture]:
  """A picture of each dataset and judge: score against KL of the best of n.

  Args:
    runs: name, "" for the only one -> its evaluation.json.
  """
  lines: dict[tuple[str, str, str], list[Line]] = {}
  for at, (run, found) in enumerate(runs.items()):
    for dataset, its in said(found).items():
      of = its.get("best_of")
      of = of if isinstance(of, dict) else {}
      rows, judges = of.get("curve"), of.get("judges")
      rows = [r for r in rows if isinstance(r, dict)] if rows else []
      for key, judge in (judges if isinstance(judges, dict) else {}).items():
        those = lines.setdefault((dataset, str(key), str(judge)), [])
        colour, first = COLOURS[at % len(COLOURS)], not those
        those.append(_curve(run, str(key), rows, colour, first))
  return [
    picture(
      f"Best of n by {judge}" + ("" if dataset == "data" else f", {dataset}"),
      "chosen by it" if key == "score" else "chosen by the first judge",
      its,
      "KL of the best of n, nats",
    )
    for (dataset, key, judge), its in lines.items()
    if any(line.steps for line in its)
  ]


def picture(title: str, unit: str, lines: list[Line], across: str) -> Picture:
  """Lines of points."""
  lines = [line for line in lines if len(line.steps)]
  svg = curves.draw(title, lines, linear=True, across=across)
  return Picture(title, unit, lines if len(lines) > 1 else [], svg)


def answers(found: dict[str, Any]) -> dict[str, list[Answer]]:
  """By dataset, the answers that were kept."""
  out: dict[str, list[Answer]] = {}
  for dataset, its in said(found).items():
    given = its.get("answers")
    for one in given if isinstance(given, list) else []:
      if isinstance(one, dict):
        scores = [
          f"{named(str(k))} {x:.2f}"
          for k, v in one.items()
          if k not in ("prompt", "text") and finite(x := number(v))
        ]
        out.setdefault(dataset, []).append(
          Answer(
            str(one.get("prompt", "")),
            str(one.get("text", "")),
            ", ".join(scores),
          )
        )
  return out


def _curve(
  run: str, key: str, rows: list[dict], colour: str, tell: bool
) -> Line:
  """Points, and their n where that is to be told."""
  known = [
    (number(r.get("kl")), number(r.get(key)), number(r.get(f"{key}_error")), r)
    for r in rows
  ]
  points = [(x, y, e, r) for x, y, e, r in known if finite(x) and finite(y)]
  return Line(
    run,
    [x for x, *_ in points],
    [y for _, y, *_ in points],
    colour,
    notes=[f"{count(r.get('n'))}" if tell else "" for *_, r in points],
    spread=[e if finite(e) else 0.0 for *_, e, _ in points],
  )
