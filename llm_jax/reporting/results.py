"""What a run reached: its rows, its evaluation, its headline figures."""

import dataclasses
from typing import Any

from llm_jax.reporting import preferences
from llm_jax.reporting.numerals import (
  count,
  duration,
  finite,
  measure,
  named,
  number,
  quantity,
)

MEASURES = (
  "bits_per_byte",
  "bits_per_masked_byte",
  "bits_per_target_byte",
  "loss",
  "perplexity",
  "token_accuracy",
  "mse",
  "pearson",
  "spearman",
  "score",
  "kl",
)

_OF_PAIRS = ("accuracy", "margin", "macro_f1")

# Of tags of words, and of answers by spans.
_MARKED = (
  "loss",
  "word_accuracy",
  "exact_match",
  "precision",
  "recall",
  "f1",
  "has_answer_exact_match",
  "has_answer_f1",
  "no_answer_exact_match",
  "best_f1",
  "best_f1_threshold",
)


class Rows:
  """The rows of metrics.jsonl by split, each step once and in order."""

  def __init__(self, rows: list[Any]):
    self._splits: dict[str, dict[int, dict]] = {}
    for row in rows:
      if isinstance(row, dict) and number(row.get("step")) is not None:
        split = self._splits.setdefault(str(row.get("split")), {})
        split[count(row["step"])] = row
    self.count = sum(map(len, self._splits.values()))
    self.last = max((max(s) for s in self._splits.values()), default=0)

  def curve(self, split: str, name: str) -> tuple[list[int], list[float]]:
    """Steps and values where the rows of a split hold this name."""
    rows = sorted(self._splits.get(split, {}).items())
    found = [(step, number(row.get(name))) for step, row in rows]
    steps = [step for step, value in found if value is not None]
    return steps, [value for _, value in found if value is not None]

  def names(self, split: str) -> list[str]:
    """Of all that the rows of a split hold."""
    rows = self._splits.get(split, {}).values()
    return list(dict.fromkeys(str(name) for row in rows for name in row))

  def latest(self, split: str) -> tuple[int, dict]:
    """The last row of a split, and its step; 0 and {} without one."""
    rows = self._splits.get(split, {})
    return (max(rows), rows[max(rows)]) if rows else (0, {})

  def seen(self) -> tuple[float, float]:
    """Tokens trained on, and the seconds that took; 0 where not known.

    Steps between two rows are taken to be like the later one.
    """
    tokens = seconds = 0.0
    waiting, before = 0.0, 0  # tokens whose speed is not known yet
    for step, row in sorted(self._splits.get("train", {}).items()):
      new = (step - before) * count(row.get("tokens"))
      speed = number(row.get("tokens_per_second"))
      tokens, waiting, before = tokens + new, waiting + new, step
      if finite(speed) and speed > 0:
        seconds, waiting = seconds + waiting / speed, 0.0
    return tokens, seconds


@dataclasses.dataclass(frozen=True)
class Result:
  """The model's or a baseline's line of the evaluation."""

  name: str
  measures: dict[str, float | None]
  bar: float | None  # per cent of the longest

  @property
  def shown(self) -> dict[str, str]:
    """The measures as text."""
    return {m: measure(m, v) for m, v in self.measures.items()}


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """evaluation.json with bars and a verdict."""

  split: str
  step: int
  by: str  # what the bars and the verdict compare, and what of it is better
  columns: tuple[tuple[str, str], ...]  # measures, and their names
  results: dict[str, Result]
  verdict: str


def evaluation(found: dict[str, Any]) -> Evaluation | None:
  """What evaluation.json says; None where it says nothing."""
  given = found.get("results")
  if not isinstance(given, dict):
    return None
  given = {k: v for k, v in given.items() if isinstance(v, dict)}
  compared = preferences.compares(given.get("model", {}))
  model = given.get("model", {})
  marked = number(model.get("f1")) is not None
  columns = preferences.columns(model) if compared else MEASURES
  columns = _MARKED if marked else columns
  known = dict.fromkeys((*columns, *MEASURES))
  rows = {
    name: {m: number(row.get(m)) for m in known} for name, row in given.items()
  }
  by = "f1" if marked else columns[0]
  if not any(finite(row[by]) for row in rows.values()):
    by = "mse" if number(model.get("mse")) is not None else "loss"
  level = {k: v for k, row in rows.items() if finite(v := row[by])}
  most = max(level.values(), default=0.0)
  return Evaluation(
    split=str(found.get("split", "")),
    step=count(found.get("checkpoint_step")),
    by=f"{named(by)}, a {'longer' if compared or marked else 'shorter'} bar is"
    " better",
    columns=tuple(
      (m, named(m))
      for m in columns
      if any(row[m] is not None for row in rows.values())
    ),
    results={
      name: Result(
        named(name),
        row,
        100 * level[name] / most if name in level and most > 0 else None,
      )
      for name, row in rows.items()
    },
    verdict=_verdict(
      level, by, "examples" if preferences.classifies(model) else "pairs"
    ),
  )


def _verdict(compared: dict[str, float], by: str, of: str) -> str:
  others = {name: v for name, v in compared.items() if name != "model"}
  if "model" not in compared or not others:
    return ""
  if by in ("accuracy", "f1"):
    best = max(others, key=lambda k: others[k])
    points = 100 * (compared["model"] - others[best])
    way = "more" if points > 0 else "less"
    level = f"{compared['model']:.1%}"
    said = "has an F1 of" if by == "f1" else "is right on"
    return (
      f"The model {said} {level}{'' if by == 'f1' else f' of {of}'},"
      f" {abs(points):.1f} points {way} than the best baseline, {named(best)}."
    )
  best = min(others, key=lambda k: others[k])
  gap = compared["model"] - others[best]
  if by == "mse":
    of_it = compared["model"] / others[best] if others[best] > 0 else 1.0
    return (
      f"The model's squared error is {of_it:.0%} of that of the best baseline,"
      f" {named(best)}."
    )
  unit = "nats a token" if by == "loss" else "bits a byte"
  way = "more than" if gap > 0 else "less than"
  share = f" ({abs(gap) / others[best]:.0%})" if others[best] > 0 else ""
  return (
    f"The model spends {abs(gap):.3f} {unit}{share} {way} the best"
    f" baseline, {named(best)}."
  )


def figures(
  rows: Rows, evaluated: Evaluation | None, about: dict[str, Any]
) -> list[dict[str, str]]:
  """The headline: value, name and note of each figure that is known."""
  step, best = rows.latest("validation")
  note = f"step {step:,}"
  split = "validation"
  if evaluated and "model" in evaluated.results and evaluated.step >= step:
    best, note = evaluated.results["model"].measures, f"step {evaluated.step:,}"
    split = evaluated.split
  tokens, seconds = rows.seen()
  train = f"{share} train" if (share := trained(about)) else ""
  of_pairs = preferences.compares(best)
  known = {name for name, v in best.items() if number(v) is not None}
  unit = "" if of_pairs or known & {"mse", "f1"} else "nats/token"
  # What is drawn has no loss of its own: it is the score, negated.
  is_score = "score" in known and "perplexity" not in known
  loss = "" if is_score else measure("loss", best.get("loss"))
  found = [
    (f"{split} loss", loss, unit),
    ("score", measure("score", best.get("score")), note),
    ("KL", measure("kl", best.get("kl")), "nats a completion"),
    ("perplexity", measure("perplexity", best.get("perplexity")), note),
    *((named(m), measure(m, best.get(m)), note) for m in MEASURES[:3]),
    *((named(m), measure(m, best.get(m)), note) for m in _OF_PAIRS if of_pairs),
    *((named(m), measure(m, best.get(m)), note) for m in ("f1", "exact_match")),
    ("tokens seen", quantity(tokens), f"{rows.last:,} steps"),
    ("parameters", quantity(number(about.get("parameters"))), train),
    ("training time", duration(seconds), "without waits"),
  ]
  return [
    {"name": name, "value": value, "note": about_it}
    for name, value, about_it in found
    if value
  ]


def trained(about: dict[str, Any]) -> str:
  """Share of the parameters that train: in words; "" if not known."""
  some, all_ = (number(about.get(k)) for k in ("trained", "parameters"))
  if not finite(some) or not finite(all_) or not all_:
    return ""
  return "all weights" if some >= all_ else f"{some / all_:.1%} of the weights"
