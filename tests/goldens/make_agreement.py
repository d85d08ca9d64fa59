"""Agreement of labellers as other libraries compute it.

Needs scikit-learn 1.9.1, statsmodels 0.15.0 and krippendorff 0.9.0; run by
hand, the numbers are kept beside it:

  python tests/goldens/make_agreement.py
"""

import json
import pathlib

import krippendorff
import numpy as np
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa


def main():
  cases = []
  for seed, (labellers, units) in enumerate([(2, 30), (3, 40), (5, 25)]):
    r = np.random.default_rng(seed)
    truth = r.choice([-1, 0, 1], units, p=[0.4, 0.1, 0.5])
    noise = r.choice([-1, 0, 1], (labellers, units))
    said = np.where(r.random((labellers, units)) < 0.6, truth, noise)
    there = r.random((labellers, units)) < 0.8
    counts = np.stack([(said == v).sum(0) for v in (-1, 0, 1)], 1)
    some = np.where(there, said, np.nan)
    alpha = lambda values: krippendorff.alpha(
      values, level_of_measurement="nominal"
    )
    cases.append(
      {
        "said": said.tolist(),
        "there": there.tolist(),
        "cohen": cohen_kappa_score(said[0], said[1]),
        "fleiss": fleiss_kappa(counts),
        "alpha": alpha(said.astype(float)),
        "alpha_of_some": alpha(some),
      }
    )
  path = pathlib.Path(__file__).with_name("agreement.json")
  path.write_text(json.dumps(cases) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
