"""Answers that were drawn, and what the best of n is worth, for reports."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from llm_jax.reporting import curves
from llm_jax.reporting.curves import Line
from llm_jax.reporting.numerals import count, finite, named, number

COLOURS = ("first", "second", "fourth", "fifth", "third")
SHOWN = 6  # questions whose answers are shown, at most

_NO_SCORES = ("prompt", "text", "reference", "best", "of")


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
  reference: str = ""  # an answer known to be right
  best: "Answer | None" = None  # the one chosen of several
  of: int = 1  # several


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
      rows = curve(its)
      if len(rows) < 2:
        continue  # nothing was chosen
      for key, judge in judges(its).items():
        those = lines.setdefault((dataset, key, judge), [])
        colour, first = COLOURS[at % len(COLOURS)], not those
        those.append(_curve(run, key, rows, colour, first))
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


def judges(its: dict[str, Any]) -> dict[str, str]:
  """Of what is said of a dataset, who scored: measure -> in words."""
  of = its.get("best_of")
  found = of.get("judges") if isinstance(of, dict) else None
  found = found if isinstance(found, dict) else {}
  return {str(key): str(judge) for key, judge in found.items()}


def curve(its: dict[str, Any]) -> list[dict[str, Any]]:
  """Of what is said of a dataset, a row for each n of the best of n."""
  of = its.get("best_of")
  rows = of.get("curve") if isinstance(of, dict) else None
  rows = rows if isinstance(rows, list) else []
  return [r for r in rows if isinstance(r, dict)]


def picture(title: str, unit: str, lines: list[Line], across: str) -> Picture:
  """Lines of points over a KL."""
  lines = [line for line in lines if len(line.steps)]
  svg = curves.draw(title, lines, linear=True, across=across, root=True)
  return Picture(title, unit, lines if len(lines) > 1 else [], svg)


def answers(found: dict[str, Any]) -> dict[str, list[Answer]]:
  """By dataset, the answers that were kept."""
  out: dict[str, list[Answer]] = {}
  for dataset, its in said(found).items():
    given = its.get("answers")
    for one in given if isinstance(given, list) else []:
      if isinstance(one, dict):
        out.setdefault(dataset, []).append(_answer(one))
  return out


def all_of(each: Sequence[tuple[str, Answer]]) -> list[tuple[str, Answer]]:
  """Who said what: the right answer, what was drawn, and the best of several.

  Args:
    each: runs by name, with their answer to one question.
  """
  right = next((one.reference for _, one in each if one.reference), "")
  out = [("reference", Answer("", right, ""))] if right else []
  for name, one in each:
    out.append((name, one))
    if one.best:
      out.append((f"{name}, best of {one.best.of}", one.best))
  return out


def _answer(one: dict[str, Any]) -> Answer:
  scores = [
    f"{named(str(k))} {x:.2f}"
    for k, v in one.items()
    if k not in _NO_SCORES and finite(x := number(v))
  ]
  best = one.get("best")
  return Answer(
    str(one.get("prompt", "")),
    str(one.get("text", "")),
    ", ".join(scores),
    str(one.get("reference", "")),
    _answer(best) if isinstance(best, dict) else None,
    count(one.get("of")),
  )


def best_line(rows: list[dict[str, Any]], key: str) -> Line:
  """What the best of 2, 4, ... answers is worth by one judge; dotted."""
  line = _curve("best of n", key, rows[1:], "third", True)
  notes = ["" for _ in line.notes[1:]] + [
    f"best of {n}" for n in line.notes[-1:]
  ]
  return dataclasses.replace(line, notes=notes, faint=True)


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
