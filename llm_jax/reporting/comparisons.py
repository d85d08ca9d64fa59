"""What one run gained over another, dataset by dataset, for the report."""

import dataclasses
from typing import Any

from llm_jax.reporting.numerals import (
  count,
  finite,
  judged,
  measure,
  named,
  number,
)

# What the picture shows; others, such as perplexity, say the same again.
SHOWN = (
  "loss",
  "bits_per_byte",
  "bits_per_masked_byte",
  "bits_per_target_byte",
  "accuracy",
  "token_accuracy",
  "word_accuracy",
  "exact_match",
  "f1",
  "mse",
  "pearson",
  "ece",
  "kl",
  "score",
)


@dataclasses.dataclass(frozen=True)
class Gain:
  """One measure on one dataset; `bar` is -100 to 100, of the largest."""

  dataset: str  # empty where it is that of the row above
  measure: str
  other: str
  this: str
  change: str
  bar: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Another run beside this one."""

  run: str
  step: int
  rows: list[Gain]


def comparison(found: dict[str, Any]) -> Comparison | None:
  """What evaluation.json says of another run; None where it says nothing."""
  against = found.get("against")
  given = against.get("comparison") if isinstance(against, dict) else None
  if not isinstance(against, dict) or not isinstance(given, list):
    return None
  known = [
    row
    for row in given
    if isinstance(row, dict)
    and str(row.get("measure")) in SHOWN
    and all(finite(number(row.get(k))) for k in ("other", "this", "gain"))
  ]
  most = {
    m: max(abs(float(r["gain"])) for r in known if r["measure"] == m)
    for m in {r["measure"] for r in known}
  }
  rows, before = [], None
  for row in known:
    name, gain = row["measure"], float(row["gain"])
    dataset = str(row.get("dataset", ""))
    rows.append(
      Gain(
        dataset if dataset != before else "",
        named(name),
        measure(name, row["other"]),
        measure(name, row["this"]),
        _change(name, gain),
        100 * gain / most[name] if most[name] else 0.0,
      )
    )
    before = dataset
  step = count(against.get("checkpoint_step"))
  return Comparison(str(against.get("run", "")), step, rows) if rows else None


@dataclasses.dataclass(frozen=True)
class Datasets:
  """A line for each dataset, a column for each measure that any has."""

  columns: list[str]
  rows: list[tuple[str, list[str]]]


def datasets(found: dict[str, Any]) -> Datasets | None:
  """Measures by dataset, where they say more than those of the own data."""
  given = found.get("datasets")
  given = given if isinstance(given, dict) else {}
  rows = {str(k): v for k, v in given.items() if isinstance(v, dict)}
  if len(rows) < 2 and not any("exact_match" in v for v in rows.values()):
    return None
  every = dict.fromkeys(m for row in rows.values() for m in row)
  known = [m for m in (*SHOWN, *judged(every)) if m in every]
  return Datasets(
    [named(m) for m in known],
    [(k, [measure(m, v.get(m)) for m in known]) for k, v in rows.items()],
  )


def _change(name: str, gain: float) -> str:
  """ "gained 0.120", "lost 3.1%", "same"."""
  size = measure(name, abs(gain))
  if size == measure(name, 0.0):
    return "same"
  if size.endswith("%"):
    size = f"{size[:-1]} points"
  return f"{'gained' if gain > 0 else 'lost'} {size}"
