"""How far what is believed comes true.

Dimension key: M examples; N bins.
"""

from typing import NamedTuple

import numpy as np

BINS = 10


class Calibration(NamedTuple):
  """Bins of confidence, those without an example left out."""

  share_N: np.ndarray  # of the weight; sums to 1
  sure_N: np.ndarray  # mean confidence
  right_N: np.ndarray  # accuracy

  @property
  def error(self) -> float:
    """Mean of |accuracy - confidence|. arXiv:1706.04599, eq. 5."""
    return float((self.share_N * abs(self.right_N - self.sure_N)).sum())

  def curve(self) -> list[dict[str, float]]:
    """As JSON."""
    return [
      {"share": float(s), "confidence": float(c), "accuracy": float(a)}
      for s, c, a in zip(*self, strict=True)
    ]


def of(
  sure_M: np.ndarray,
  right_M: np.ndarray,
  weight_M: np.ndarray,
  low: float,
  bins: int = BINS,
) -> Calibration:
  """Bins of confidence as wide as each other, from `low` to 1.

  Args:
    sure_M: confidence of each example.
    right_M: whether it is right, or how far.
    weight_M: sums to 1.
    low: the least confidence there can be.
    bins: how many.
  """
  at_M = ((sure_M - low) / (1 - low) * bins).astype(int)
  at_M = np.clip(at_M, 0, bins - 1)
  total = lambda x_M: np.bincount(at_M, x_M, minlength=bins)
  share_N = total(weight_M)
  some_N = share_N > 0
  mean = lambda x_M: total(weight_M * x_M)[some_N] / share_N[some_N]
  return Calibration(share_N[some_N], mean(sure_M), mean(right_M))
