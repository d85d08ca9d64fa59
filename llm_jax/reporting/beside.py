"""Runs beside each other, as one page that needs no network."""

from collections.abc import Sequence
import dataclasses
import math
import os
import pathlib
from typing import Any
import urllib.parse

from llm_jax import storage
from llm_jax.reporting import answers, files, report, settings, tables
from llm_jax.reporting.answers import Answer, COLOURS, Picture
from llm_jax.reporting.curves import Line
from llm_jax.reporting.numerals import (
  count,
  finite,
  judged,
  meant,
  measure,
  named,
  number,
  titled,
)
from llm_jax.reporting.progress import waiting

# Columns in this order, scores by other judges after the first; what else is
# measured is in comparison.json.
_MEASURES = (
  "accuracy",
  "margin",
  "ece",
  "score",
  "kl",
  "bits_per_byte",
  "bits_per_masked_byte",
  "bits_per_target_byte",
  "loss",
  "token_accuracy",
  "word_accuracy",
  "exact_match",
  "f1",
  "macro_f1",
  "matthews",
  "mse",
  "pearson",
)
_FEW = 2  # settings that name a run, at most


@dataclasses.dataclass(frozen=True)
class Run:
  """An evaluated run."""

  folder: pathlib.Path
  name: str
  settings: dict[str, Any]
  found: dict[str, Any]  # evaluation.json

  @property
  def datasets(self) -> dict[str, dict[str, Any]]:
    """Measures by dataset."""
    given = self.found.get("datasets")
    given = given if isinstance(given, dict) else {}
    return {str(k): v for k, v in given.items() if isinstance(v, dict)}

  def said(self, dataset: str) -> dict[str, Any]:
    """What was asked of a dataset and answered."""
    return answers.said(self.found).get(dataset, {})

  def best(self, dataset: str) -> list[dict[str, Any]]:
    """The best of n = 1, 2, ... answers; [] where nothing was chosen."""
    rows = answers.curve(self.said(dataset))
    return rows if len(rows) > 1 else []

  def is_reference(self, dataset: str) -> bool:
    """Whether KL is measured from this very run, as that of its best of n."""
    return number(self.datasets.get(dataset, {}).get("kl")) == 0

  def lines(self, dataset: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and measures: of the run, and of the best of its answers."""
    out = [(self.name, self.datasets.get(dataset, {}))]
    if best := self.best(dataset):
      last = {k: v for k, v in best[-1].items() if k != "n"}
      if not self.is_reference(dataset):
        last.pop("kl", None)  # that is from the run, not from the reference
      out.append((f"{self.name}, best of {count(best[-1].get('n'))}", last))
    return out


@dataclasses.dataclass(frozen=True)
class Runs:
  """Runs in order, each with a name of its own, and how they differ."""

  runs: list[Run]
  differing: dict[str, list[Any]]  # setting -> its value in each
  lines: list[list[int]]  # those that differ in one number alone, by it


def name(found: Sequence[Run], differing: dict[str, list[Any]]) -> Runs:
  """Names runs by what differs, where that is little, or else by folder."""
  order = list(range(len(found)))
  along = _along(differing)
  rest = {k: v for k, v in differing.items() if k not in (along, "init_from")}
  alike = [repr([v[i] for v in rest.values()]) for i in order]
  if along is not None and len(set(alike)) < len(alike):
    order.sort(key=lambda i: differing[along][i])
  lines: dict[str, list[int]] = {}
  for at, i in enumerate(order):
    lines.setdefault(alike[i], []).append(at)
  told = {k: v for k, v in differing.items() if k != "init_from"}
  few = 0 < len(told) <= _FEW
  names = [
    ", ".join(_word(k, v[i]) for k, v in told.items()) if few else its.name
    for i, its in enumerate(found)
  ]
  if len(set(names)) < len(names):
    paths = [_whole(its.folder) for its in found]
    home = os.path.commonpath(paths)
    names = [path.relative_to(home).as_posix() for path in paths]
  apart = differing.get("data")
  runs = [
    dataclasses.replace(
      found[i],
      name=names[i],
      found=_apart(found[i].found, apart[i]) if apart else found[i].found,
    )
    for i in order
  ]
  return Runs(
    runs,
    {k: [v[i] for i in order] for k, v in differing.items()},
    list(lines.values()),
  )


def _apart(found: dict[str, Any], kind: Any) -> dict[str, Any]:
  """The same, where "data" says of which class it is."""
  out = dict(found)
  for part in ("datasets", "said"):
    given = found.get(part)
    if isinstance(given, dict):
      out[part] = {
        f"data ({kind})" if k == "data" else k: v for k, v in given.items()
      }
  return out


def _along(differing: dict[str, list[Any]]) -> str | None:
  """The setting that is swept: a number that differs most often."""
  sizes = {
    name: len(set(values))
    for name, values in differing.items()
    if name != "seed"
    and all(type(v) in (int, float) for v in values)  # no bool
  }
  return max(sizes, key=lambda n: sizes[n]) if sizes else None


def _word(setting: str, value: Any) -> str:
  short = setting.rpartition(".")[2]
  text = "\u2013" if value is None else settings.shown(value)
  return text if isinstance(value, str) else f"{short} {text}"


def table(runs: Runs) -> str:
  """What was measured, for the terminal."""
  parts = []
  for dataset, columns, rows in _tables(runs):
    lines = [[dataset, *columns], *([n, *cells] for n, cells in rows)]
    parts.append(tables.aligned(lines))
  return "\n\n".join(parts)


def write(runs: Runs, into: pathlib.Path) -> pathlib.Path:
  """Writes comparison.json and index.html; returns the path of the page."""
  path = into / "index.html"
  with waiting("report"):
    files.write_json(into / "comparison.json", _json(runs))
    told = {
      "runs": [
        (r.name, _link(r.folder, into), count(r.found.get("checkpoint_step")))
        for r in runs.runs
      ],
      "notes": _notes(runs),
      "tables": _tables(runs),
      "frontiers": _frontiers(runs),
      "judges": _judges(runs),
      "best_of": answers.best_of({r.name: r.found for r in _apart_of(runs)}),
      "answers": _answers(runs),
      "settings": [
        (k, ["\u2013" if x is None else settings.shown(x) for x in v])
        for k, v in runs.differing.items()
      ],
    }
    files.write_text(path, report.page("beside.html.jinja", told))
  return path


def _json(runs: Runs) -> dict[str, Any]:
  return {
    "runs": [
      {
        "name": r.name,
        "run": str(r.folder),
        "checkpoint_step": r.found.get("checkpoint_step"),
        "split": r.found.get("split"),
        "settings": {k: v[i] for k, v in runs.differing.items()},
        "datasets": r.datasets,
      }
      for i, r in enumerate(runs.runs)
    ]
  }


def _link(folder: pathlib.Path, into: pathlib.Path) -> str:
  """The way from the page to the report of a run; "" without one."""
  path = folder / "report.html"
  if not path.exists() or storage.is_remote(path) != storage.is_remote(into):
    return ""
  way = os.path.relpath(_whole(path), _whole(into))
  return urllib.parse.quote(pathlib.PurePath(way).as_posix())


def _whole(path: pathlib.Path) -> pathlib.PurePosixPath:
  """A path from the root, as which a bucket's address counts, too."""
  return pathlib.PurePosixPath("/", str(path.resolve()))


def _notes(runs: Runs) -> list[str]:
  """What makes numbers of two runs no fair comparison."""
  out = []
  splits = [str(r.found.get("split")) for r in runs.runs]
  if len(set(splits)) > 1:
    out.append(f"Measured on different splits: {', '.join(splits)}.")
  data = [k for k in runs.differing if k.split(".")[0] == "data"]
  if data and any(d.split(" ")[0] == "data" for d in _datasets(runs)):
    out.append(
      f"The runs differ in {', '.join(data)}: what is called data need not be"
      " the same."
    )
  for dataset in _datasets(runs):
    asked = [a for r in runs.runs if (a := r.said(dataset).get("asked"))]
    if any(a != asked[0] for a in asked):
      out.append(
        f"{dataset}: the runs were not asked the same questions, or not in the"
        " same way."
      )
  return out


def _judges(runs: Runs) -> list[tuple[str, str]]:
  """Names of scores, and who gave them."""
  each = [
    answers.judges(its)
    for r in runs.runs
    for its in answers.said(r.found).values()
  ]
  told = {name: judge for its in each for name, judge in its.items()}
  return [(named(name), meant(name) or judge) for name, judge in told.items()]


def _apart_of(runs: Runs) -> list[Run]:
  """Runs whose best of n has no place beside others, far from where it is."""
  alone = lambda r: not any(r.best(d) and r.is_reference(d) for d in r.datasets)
  return [r for r in runs.runs if alone(r)]


def _datasets(runs: Runs) -> list[str]:
  """Those that two runs have, or else all."""
  known = [n for r in runs.runs for n in r.datasets]
  names = list(dict.fromkeys(known))
  return [n for n in names if known.count(n) > 1] or names


def _tables(
  runs: Runs,
) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
  """Dataset, names of columns, and rows of a run's name and its cells."""
  out = []
  for dataset in _datasets(runs):
    each = [line for r in runs.runs for line in r.lines(dataset)]
    known = [m for m in _columns(runs) if any(m in its for _, its in each)]
    if known:
      rows = [(n, [_cell(m, its) for m in known]) for n, its in each if its]
      out.append((dataset, [named(m) for m in known], rows))
  return out


def _columns(runs: Runs) -> list[str]:
  """Measures that are told, scores by other judges after that by the first."""
  every = [m for r in runs.runs for its in r.datasets.values() for m in its]
  at = 1 + _MEASURES.index("score")
  others = judged(dict.fromkeys(every))
  return [*_MEASURES[:at], *others, *_MEASURES[at:]]


def _cell(name: str, its: dict[str, Any]) -> str:
  """A measure, with its standard error where that is known."""
  value, error = number(its.get(name)), number(its.get(f"{name}_error"))
  if finite(value) and finite(error) and error > 0:
    digits = 2 if error >= 0.1 else 3
    return f"{value:.{digits}f} \u00b1 {error:.{digits}f}"
  return measure(name, value)


def _frontiers(runs: Runs) -> list[Picture]:
  """What was reached, against how far from the reference that is."""
  out = []
  for dataset in _datasets(runs):
    for name in _columns(runs):
      if name != "accuracy" and not name.rstrip("_").endswith("score"):
        continue
      lines = [
        _line(runs, its, dataset, name, COLOURS[i % len(COLOURS)])
        for i, its in enumerate(runs.lines)
      ]
      lines += [
        answers.best_line(r.best(dataset), name)
        for r in runs.runs
        if r.is_reference(dataset)
      ]
      if sum(len(line.steps) for line in lines) > 1:
        of = "" if dataset == "data" else f", {dataset}"
        title = f"{titled(name)} against KL{of}"
        across = "KL from the reference, nats a completion"
        # Points say what they are.
        unit = "dotted: the best of n answers"
        best = any(
          r.best(dataset) and r.is_reference(dataset) for r in runs.runs
        )
        drawn = answers.picture(title, unit if best else "", lines, across)
        out.append(dataclasses.replace(drawn, legend=[]))
  return out


def _line(
  runs: Runs, which: list[int], dataset: str, name: str, colour: str
) -> Line:
  """Points of runs that differ in a number, in its order."""
  across: list[tuple[float, float]] = []
  up: list[tuple[float, float]] = []
  notes: list[str] = []
  for run in (runs.runs[i] for i in which):
    its = run.datasets.get(dataset, {})
    x, y = number(its.get("kl")), number(its.get(name))
    if not finite(x) or not finite(y):
      continue
    spread = number(its.get(f"{name}_error"))
    if name == "accuracy" and (size := count(its.get("pairs"))):
      spread = math.sqrt(max(y * (1 - y), 0) / size)
    across.append((x, number(its.get("kl_error")) or 0.0))
    up.append((y, spread or 0.0))
    notes.append(run.name)
  return Line(
    "",
    [x for x, _ in across],
    [y for y, _ in up],
    colour,
    notes=notes,
    aside=[e for _, e in across],
    spread=[e for _, e in up],
  )


def _answers(
  runs: Runs,
) -> list[tuple[str, str, list[tuple[str, Answer]]]]:
  """Dataset and question, with the answers of the runs to it."""
  each = [(r.name, answers.answers(r.found)) for r in runs.runs]
  out = []
  for dataset in _datasets(runs):
    by_prompt: dict[str, dict[str, Answer]] = {}
    for run, its in each:
      for one in its.get(dataset, []):
        by_prompt.setdefault(one.prompt, {})[run] = one
    both = [(p, a) for p, a in by_prompt.items() if len(a) > 1]
    out += [
      (dataset, prompt, answers.all_of(list(its.items())))
      for prompt, its in both[: answers.SHOWN]
    ]
  return out
