"""Numbers and names of a run's files, as people read them."""

from collections.abc import Iterable
import math
from typing import Any, TypeGuard

_NAMES = {
  "kneser_ney_5": "Kneser-Ney 5-gram",
  "bits_per_byte": "bits/byte",
  "bits_per_masked_byte": "bits/masked byte",
  "bits_per_target_byte": "bits/target byte",
  "ece": "calibration error",
  "kl": "KL",
  "macro_f1": "macro F1",
  "f1": "F1",
  "has_answer_f1": "has answer F1",
  "best_f1": "best F1",
  "best_f1_threshold": "at threshold",
  "micro_f1": "micro F1",
  "mse": "squared error",
  "rouge_score": "ROUGE-L",
  "line_score": "rule score",
}
_MEANT = {
  "rouge_score": "words in common with the right answer, in order",
  "line_score": "half for a whole line, half for one about the same function",
}
_SHARES = (
  "accuracy",
  "token_accuracy",
  "exact_match",
  "most_frequent",
  "word_accuracy",
  "has_answer_exact_match",
  "has_answer_f1",
  "no_answer_exact_match",
  "best_f1",
  "ece",
  "macro_f1",
  "micro_f1",
  "precision",
  "recall",
  "f1",
  "chosen_longer",
  "chosen_shorter",
)


def number(value: Any) -> float | None:
  """A number, or its name in JSON ("nan", "inf", "-inf"); None of another."""
  if isinstance(value, bool) or not isinstance(value, int | float | str):
    return None
  try:
    return float(value)
  except (ValueError, OverflowError):
    return None


def count(value: Any) -> int:
  """A whole number; 0 of anything else."""
  value = number(value)
  return int(value) if finite(value) else 0


def finite(value: float | None) -> TypeGuard[float]:
  """Whether there is a number, and it is finite."""
  return value is not None and math.isfinite(value)


def named(name: str) -> str:
  """A name of a file's as people read it."""
  return _NAMES.get(name, name.replace("_", " "))


def meant(name: str) -> str:
  """What a score says, in words; "" where its judge alone knows."""
  return _MEANT.get(name, "")


def titled(name: str) -> str:
  """The same, as it begins a sentence."""
  name = named(name)
  return name[:1].upper() + name[1:]


def judged(measures: Iterable[str]) -> list[str]:
  """Of names of measures, those of scores by other judges than the first."""
  return [m for m in measures if m.rstrip("_").endswith("_score")]


def measure(name: str, value: Any) -> str:
  """A measure with the digits that mean something; "" where there is none."""
  value = number(value)
  if value is None:
    return ""
  if not math.isfinite(value):
    return str(value)
  if name in _SHARES:
    return f"{value:.1%}"
  if name == "perplexity":
    return f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"
  return f"{value:.3f}"


def quantity(value: float | None) -> str:
  """A count in three digits or so; "" of none."""
  if not finite(value) or not value:
    return ""
  for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
    if value >= size:
      return f"{value / size:.3g} {letter}"
  return f"{value:,.0f}"


def duration(seconds: float) -> str:
  """The two largest units; "" of none."""
  left = round(seconds) if math.isfinite(seconds) else 0
  parts: list[str] = []
  for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
    if left >= size and len(parts) < 2:
      parts.append(f"{left // size} {unit}")
      left %= size
  return " ".join(parts) or ("< 1 s" if seconds > 0 else "")
