"""Figures of classes, sets of classes and numbers, of scikit-learn and scipy.

Needs both; run by hand, the numbers are kept beside it:

  python tests/goldens/make_tasks_measured.py
"""

import json
import pathlib

import numpy as np
import scipy
from scipy import stats
import sklearn
from sklearn import metrics


def main() -> None:
  r = np.random.default_rng(0)
  # Of five classes one is never said, one never true, and one neither.
  true, said = r.choice([0, 1, 2], 40), r.choice([0, 1, 3], 40)
  said = np.where(r.random(40) < 0.5, np.where(true == 2, said, true), said)
  # Of four classes the last is never true and never said.
  is_ = r.random((30, 4)) < [0.5, 0.2, 0.7, 0]
  told = (is_ ^ (r.random((30, 4)) < 0.2)) & [True, True, True, False]
  each = metrics.precision_recall_fscore_support(
    is_, told, zero_division=np.nan
  )
  f1 = lambda average, labels: metrics.f1_score(
    is_, told, average=average, labels=labels
  )
  y = np.round(2 * r.normal(size=50), 1)
  z = np.round(y + r.normal(size=50), 1)  # with ties
  assert len(set(z)) < 50 > len(set(y))
  out = {
    "classes": {
      "true": true.tolist(),
      "said": said.tolist(),
      "accuracy": metrics.accuracy_score(true, said),
      "macro_f1": metrics.f1_score(true, said, average="macro"),
      "micro_f1": metrics.f1_score(true, said, average="micro"),
      "matthews": metrics.matthews_corrcoef(true, said),
    },
    "class_sets": {
      "true": is_.tolist(),
      "said": told.tolist(),
      "accuracy": metrics.accuracy_score(is_, told),
      "micro_f1": f1("micro", None),
      "macro_f1": f1("macro", [0, 1, 2]),
      "each": [
        [None if np.isnan(x) else float(x) for x in column] for column in each
      ],
    },
    "numbers": {
      "true": y.tolist(),
      "said": z.tolist(),
      "mse": metrics.mean_squared_error(y, z),
      "pearson": stats.pearsonr(y, z)[0],
      "spearman": stats.spearmanr(y, z)[0],
    },
    "scikit-learn": sklearn.__version__,
    "scipy": scipy.__version__,
  }
  path = pathlib.Path(__file__).parent / "tasks_measured.json"
  path.write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
