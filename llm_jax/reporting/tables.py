"""evaluation.json as tables for the terminal."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from llm_jax.reporting import preferences
from llm_jax.reporting.numerals import judged, named

_MEASURES = (
  "loss",
  "perplexity",
  "bits_per_byte",
  "bits_per_masked_byte",
  "bits_per_target_byte",
  "token_accuracy",
  "mse",
  "pearson",
  "spearman",
  "accuracy",
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
  "most_frequent",
  "score",
  "kl",
)


def columns(rows: Sequence[Sequence[str]]) -> str:
  """Rows of text, each column as wide as its widest cell."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = (
    "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True))
    for row in rows
  )
  return "\n".join(line.rstrip() for line in lines)


def evaluation(found: dict[str, Any]) -> str:
  """The model beside baselines; other data; another run: what there is."""
  parts = [f"{found['split']}, checkpoint {found['checkpoint_step']}"]
  said = preferences.facts(found)
  known: Sequence[str] = _MEASURES
  if said:
    known = ("loss", *preferences.columns(found["results"]["model"]))
  parts[0] += f"\n{_measures(found['results'], known)}"
  if said:
    parts.append("\n".join(f"{name}: {value}" for name, value in said))
  if classes := preferences.of_classes(found):
    of = preferences.counted(found)
    lines = [["", of, "precision", "recall", "F1"]]
    lines += [list(dataclasses.astuple(c)) for c in classes]
    parts.append(aligned(lines))
  parts += [_best_of(name, its) for name, its in found.get("said", {}).items()]
  parts = [part for part in parts if part]
  if len(found.get("datasets", {})) > 1:
    every = dict.fromkeys(m for r in found["datasets"].values() for m in r)
    known = (*_MEASURES, *judged(every))
    parts.append(_measures(found["datasets"], known))
  if "against" in found:
    parts.append(_comparison(found["against"]))
  return "\n\n".join(parts)


def _measures(
  results: dict[str, dict[str, float]], known: Sequence[str]
) -> str:
  """A line each, a column a measure that any has."""
  columns = [m for m in known if any(m in r for r in results.values())]
  lines = [["", *map(named, columns)]]
  for name, result in results.items():
    cells = (f"{result[c]:.4f}" if c in result else "" for c in columns)
    lines.append([name, *cells])
  return aligned(lines)


def _best_of(dataset: str, said: dict[str, Any]) -> str:
  """What the best of n answers is worth; "" where nobody was asked."""
  if "best_of" not in said:
    return ""
  judges = said["best_of"]["judges"]
  lines = [[f"{dataset}: best of", "KL", *judges.values()]]
  for row in said["best_of"]["curve"]:
    scores = (f"{row[key]:.4f}" for key in judges)
    lines.append([f"{row['n']:.0f}", f"{row['kl']:.4f}", *scores])
  return aligned(lines)


def _comparison(against: dict[str, Any]) -> str:
  """A line for each dataset and measure: other, this, what was gained."""
  run, step = against["run"], against["checkpoint_step"]
  lines = [["", "measure", "other", "this", "gained", "lost"]]
  before = ""
  for row in against["comparison"]:
    gain = row["gain"]
    lines.append(
      [
        row["dataset"] if row["dataset"] != before else "",
        named(row["measure"]),
        f"{row['other']:.4f}",
        f"{row['this']:.4f}",
        f"{gain:.4f}" if gain > 0 else "",
        f"{-gain:.4f}" if gain < 0 else "",
      ]
    )
    before = row["dataset"]
  said = aligned(lines) if lines[1:] else "no measure that both runs have"
  return f"other: {run}, checkpoint {step}\n{said}"


def aligned(lines: list[list[str]]) -> str:
  """Columns under each other, the first to the left."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  first = max(widths[0], 14)
  return "\n".join(
    line[0].ljust(first)
    + "".join(
      cell.rjust(max(n, 9) + 2)
      for cell, n in zip(line[1:], widths[1:], strict=True)
    )
    for line in lines
  )
