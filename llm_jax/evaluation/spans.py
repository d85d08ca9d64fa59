"""Spans of a text by the scores of where they start and end.

Dimension key: W tokens of a window.
"""

from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
  """From a token to another, both of it."""

  score: float
  first: int
  last: int


def best(
  start_W: np.ndarray, end_W: np.ndarray, longest: int, count: int
) -> list[Span]:
  """The spans i..j of the largest start_i + end_j, the largest first.

    0 <= j - i < longest

  Devlin et al. 2018, arXiv:1810.04805, section 4.2; all are looked at.
  """
  size = len(start_W)
  off_WW = np.arange(size) - np.arange(size)[:, None]  # j - i
  score_WW = start_W[:, None].astype(np.float64) + end_W
  score_WW[(off_WW < 0) | (off_WW >= longest)] = -np.inf
  flat = score_WW.ravel()
  count = min(count, int(np.isfinite(flat).sum()))
  top = np.argpartition(-flat, max(count - 1, 0))[:count] if size else flat
  spans = [Span(float(flat[n]), *divmod(int(n), size)) for n in top]
  return sorted(spans, key=lambda s: (-s.score, s.first, s.last))
