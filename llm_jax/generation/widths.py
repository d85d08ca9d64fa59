"""Rows of a few widths, so that few programs are compiled.

Dimension key: B rows; T positions.
"""

from collections.abc import Mapping

import numpy as np


def of(needed: int, most: int, widths: int) -> int:
  """The least of the widths ceil(most / widths) k, or `most`, with room."""
  step = -(-most // widths)
  return min(most, -(-needed // step) * step)


def to_the_left(
  rows: Mapping[str, np.ndarray], width: int
) -> dict[str, np.ndarray]:
  """Rows that begin with what is in them, and end with padding, which is 0.

  Args:
    rows: `segment_BT` is 0 in padding; x_BT are moved, x_B are not.
    width: of the result; no row holds more.
  """
  real_BT = rows["segment_BT"] > 0
  at_BT = real_BT.argmax(1)[:, None] + np.arange(width)
  there_BT = at_BT < real_BT.shape[1]
  at_BT = np.minimum(at_BT, real_BT.shape[1] - 1)

  def move(x_BT: np.ndarray) -> np.ndarray:
    moved_BT = np.take_along_axis(x_BT, at_BT, 1)
    return np.where(there_BT, moved_BT, np.zeros((), x_BT.dtype))

  return {n: move(x) if n.endswith("_BT") else x for n, x in rows.items()}


def cut(
  rows: Mapping[str, np.ndarray], most: int, widths: int
) -> dict[str, np.ndarray]:
  """Rows without their last positions, where all of them are padding."""
  real_T = np.flatnonzero((rows["segment_BT"] > 0).any(0))
  used = 1 + int(real_T.max(initial=0))
  width = of(used, max(most, used), widths)
  return {n: x[:, :width] if n.endswith("_BT") else x for n, x in rows.items()}
