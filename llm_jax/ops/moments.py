"""Mean and deviation of numbers that come batch by batch."""

import math
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
  """What is known of all numbers so far; none at first."""

  size: float = 0.0
  mean: float = 0.0
  square: float = 0.0  # sum of squared deviations from the mean

  def joined(self, x: np.ndarray) -> "Moments":
    """With more numbers, at least one. Exact in any order and any batches.

      d = mean of x - mean,  mean <- mean + d m / (n + m)
      square <- square + sum (x - mean of x)^2 + d^2 n m / (n + m)

    of n numbers and m more. Chan, Golub and LeVeque 1983, "Algorithms for
    computing the sample variance", eq. 2.1.
    """
    m, mean = x.size, float(x.mean())
    total, d = self.size + m, mean - self.mean
    more = float(((x - mean) ** 2).sum())
    return Moments(
      total,
      self.mean + d * m / total,
      self.square + more + d * d * self.size * m / total,
    )

  @property
  def deviation(self) -> float:
    """Over n - 1; 0 of fewer than two numbers."""
    return math.sqrt(self.square / (self.size - 1)) if self.size > 1 else 0.0
