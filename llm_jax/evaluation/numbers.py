"""What is said of texts of which a number is told.

Dimension key: M texts.
"""

from typing import NamedTuple

import numpy as np


class Told(NamedTuple):
  """Texts of a split."""

  said_M: np.ndarray
  number_M: np.ndarray  # the true one


def measure(found: Told) -> dict[str, float]:
  """Figures of a split; correlations are left out where one side is constant.

  Returns:
    mse        mean squared error
    pearson    correlation of what is said and what is true
    spearman   the same of their ranks, of ties the mean rank
    examples   how many
  """
  said, true = (x.astype(np.float64) for x in found)
  out = {"mse": float(((said - true) ** 2).mean())}
  for name, both in (
    ("pearson", (said, true)),
    ("spearman", (_ranks(said), _ranks(true))),
  ):
    if all(np.ptp(x) > 0 for x in both):
      out[name] = float(np.corrcoef(*both)[0, 1])
  return out | {"examples": float(len(true))}


def baselines(found: Told) -> dict[str, dict[str, float]]:
  """Always the mean of the split."""
  true = found.number_M.astype(np.float64)
  return {"mean": {"mse": float(((true - true.mean()) ** 2).mean())}}


def _ranks(x_M: np.ndarray) -> np.ndarray:
  """From 1; those alike have the mean of theirs."""
  _, which_M, count_U = np.unique(x_M, return_inverse=True, return_counts=True)
  last_U = np.cumsum(count_U)
  return (last_U - (count_U - 1) / 2)[which_M]
