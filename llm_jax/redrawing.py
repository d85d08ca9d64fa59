"""Groups of completions that teach something, gathered over several drawings.

DAPO's dynamic sampling (arXiv:2503.14476, section 3.2): where all completions
of a prompt score the same, none is better than another and nothing is learned;
so other prompts are asked, until the batch is full of groups that differ.

Dimension key: B completions; G = B / K prompts; K completions of a prompt; T
positions.
"""

from collections.abc import Callable, Sequence

import numpy as np

Rows = dict[str, np.ndarray]


def gathered(
  draw: Callable[[int], Rows], most: int, group: int
) -> tuple[Rows, int, float]:
  """Rows to learn from, drawn as often as it takes.

  Args:
    draw: number of a drawing -> B completions with `earned_B`, those of a
      prompt side by side; always as many, in rows of any length.
    most: drawings, at least 1.
    group: K.

  Returns:
    B rows: of groups that differ, in the order in which they were drawn, and
    where there are too few of others after them; how many drawings it took;
    and the share of all groups drawn in which all scores are one.
  """
  drawn: list[Rows] = []
  differs: list[np.ndarray] = []
  for number in range(most):
    drawn.append(draw(number))
    differs.append(differing(drawn[-1]["earned_B"], group))
    wanted = len(differs[0])
    if sum(d.sum() for d in differs) >= wanted:
      break
  all_G = np.concatenate(differs)
  flat = 1 - float(all_G.mean())
  if len(drawn) == 1:
    return drawn[0], 1, flat
  order = np.argsort(~all_G, kind="stable")[:wanted]
  rows = (order[:, None] * group + np.arange(group)).reshape(-1)
  return {n: x[rows] for n, x in joined(drawn).items()}, len(drawn), flat


def differing(score_B: np.ndarray, group: int) -> np.ndarray:
  """Whether a prompt's completions have different scores, [G]."""
  score_GK = score_B.reshape(-1, group)
  return score_GK.min(1) != score_GK.max(1)


def joined(drawn: Sequence[Rows]) -> Rows:
  """All rows; those that are shorter get padding in front, which is 0."""
  width = max(x.shape[1] for rows in drawn for x in rows.values() if x.ndim > 1)

  def wide(x: np.ndarray) -> np.ndarray:
    if x.ndim == 1:
      return x
    return np.pad(x, [(0, 0), (width - x.shape[1], 0)])

  return {
    name: np.concatenate([wide(rows[name]) for rows in drawn])
    for name in drawn[0]
  }
