"""Accuracy, precision, recall and F1 of scikit-learn.

Needs scikit-learn; run by hand, the numbers are kept beside it:

  python tests/goldens/make_classes.py
"""

import json
import pathlib

import numpy as np
import sklearn
from sklearn import metrics


def main() -> None:
  r = np.random.default_rng(0)
  # Of five classes one is never said, one never true, and one neither.
  true, said = r.choice([0, 1, 2], 40), r.choice([0, 1, 3], 40)
  said = np.where(r.random(40) < 0.5, np.where(true == 2, said, true), said)
  each = metrics.precision_recall_fscore_support(
    true, said, labels=range(5), zero_division=np.nan
  )
  out = {
    "true": true.tolist(),
    "said": said.tolist(),
    "accuracy": metrics.accuracy_score(true, said),
    "macro_f1": metrics.f1_score(true, said, average="macro"),
    "each": [
      [None if np.isnan(x) else float(x) for x in column] for column in each
    ],
    "scikit-learn": sklearn.__version__,
  }
  path = pathlib.Path(__file__).parent / "classes.json"
  path.write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
