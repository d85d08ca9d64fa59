"""What one run gained over another, and what it lost."""

from collections.abc import Mapping
from typing import Any

# +1 where more is better, -1 where less is.
BETTER = {
  "loss": -1,
  "perplexity": -1,
  "bits_per_byte": -1,
  "bits_per_masked_byte": -1,
  "bits_per_target_byte": -1,
  "accuracy": +1,
  "token_accuracy": +1,
  "word_accuracy": +1,
  "exact_match": +1,
  "f1": +1,
  "ece": -1,
  "score": +1,
  "macro_f1": +1,
  "micro_f1": +1,
  "matthews": +1,
  "mse": -1,
  "pearson": +1,
  "spearman": +1,
}

Measures = Mapping[str, float]


def compare(
  this: Mapping[str, Measures], other: Mapping[str, Measures]
) -> list[dict[str, Any]]:
  """A row for each dataset and measure that both runs have.

  Args:
    this: {dataset: {measure: value}} of the run that is asked about.
    other: likewise, of the run that it is held against.

  Returns:
    rows {"dataset", "measure", "other", "this", "gain"}; gain is positive
    where `this` is better, in the measure's own unit.
  """
  return [
    {
      "dataset": name,
      "measure": measure,
      "other": other[name][measure],
      "this": measures[measure],
      "gain": sign * (measures[measure] - other[name][measure]),
    }
    for name, measures in this.items()
    if name in other
    for measure, sign in BETTER.items()
    if measure in measures and measure in other[name]
  ]
