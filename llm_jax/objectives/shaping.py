"""From a judge's score of a completion to the one that is learned from.

Dimension key: B completions.
"""

import dataclasses
from typing import Literal

import numpy as np

from llm_jax.config import field
from llm_jax.ops import kl


@dataclasses.dataclass(frozen=True)
class Shaping:
  """What is done to scores, and how much the KL from the reference costs."""

  missing_eos: Literal["keep", "replace", "subtract"] = field(
    "replace",
    "score of a completion that came to its limit without an end: as it is,"
    " minus `penalty` in its place, or less `penalty`",
  )
  penalty: float = field(1.0, "of a completion without an end", low=0)
  overlong: int = field(
    0,
    "last tokens before the limit, over which a completion loses more and more"
    " of `overlong_penalty` (DAPO, arXiv:2503.14476, eq. 13); 0 = none",
    low=0,
  )
  overlong_penalty: float = field(
    1.0, "what a completion has lost at the limit", low=0
  )
  clip: float | None = field(
    None, "scores are cut to this, up and down; none = never", low=0
  )
  beta: float = field(0.05, "weight of the KL that rewards lose", low=0)
  target: float | None = field(
    None,
    "KL of a completion, nats, that beta is adapted to (arXiv:1909.08593,"
    " section 2.2); none = beta stays",
    low=1e-6,
  )
  horizon: int = field(
    10_000, "completions in which an adapted beta changes by a fifth", low=1
  )

  def scores(self, found_B: np.ndarray, ended_B: np.ndarray) -> np.ndarray:
    """Scores to learn from, [B].

    Args:
      found_B: of the judge.
      ended_B: whether a completion came to its own end.
    """
    if self.clip is not None:
      found_B = np.clip(found_B, -self.clip, self.clip)
    if self.missing_eos == "replace":
      return np.where(ended_B, found_B, -self.penalty)
    if self.missing_eos == "subtract":
      return np.where(ended_B, found_B, found_B - self.penalty)
    return found_B

  def too_long(self, length_B: np.ndarray, limit: int) -> np.ndarray:
    """What completions lose for their lengths, [B].

      penalty * clip((|y| - (limit - overlong)) / overlong, 0, 1)

    Args:
      length_B: in tokens, that of the end included.
      limit: most tokens of a completion.
    """
    if not self.overlong:
      return np.zeros(len(length_B))
    beyond_B = length_B - (limit - self.overlong)
    return self.overlong_penalty * np.clip(beyond_B / self.overlong, 0, 1)

  def next_beta(self, beta: float, moved: float, completions: int) -> float:
    """The weight after an update whose mean KL of a completion was `moved`."""
    if self.target is None:
      return beta
    return kl.adapted(beta, moved, self.target, self.horizon, completions)
