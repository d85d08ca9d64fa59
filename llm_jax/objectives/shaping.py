"""From a judge's score of a completion to the one that is learned from.

Dimension key: B completions.
"""

import dataclasses
from typing import Literal

import numpy as np

from llm_jax.config import field
from llm_jax.ops import kl
from llm_jax.ops.moments import Moments


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
  scale: Literal["none", "first", "running"] = field(
    "none",
    "scores are divided by the standard deviation of the first update's, which"
    " the policy drew as it began, or of all so far",
  )
  centre: bool = field(False, "scores are less the mean of the same, before")
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

  most_kl: float | None = field(
    3.0,
    "KL of a token, nats, that is too far from the reference: a run stops that"
    " is so far in `patience` updates in a row; none = it never stops",
    low=0,
  )
  patience: int = field(
    5, "updates in a row, too far from the reference, that end a run", low=1
  )

  def __post_init__(self) -> None:
    if self.centre and self.scale == "none":
      raise ValueError(
        "--shaping.centre=true: the mean is that of --shaping.scale=first or"
        " running"
      )

  def seen(self, moments: Moments, found_B: np.ndarray) -> Moments:
    """What scores are scaled by once the judge has said more of them."""
    if self.scale == "none" or (self.scale == "first" and moments.size):
      return moments
    return moments.joined(found_B)

  def scores(
    self,
    found_B: np.ndarray,
    ended_B: np.ndarray,
    moments: Moments = Moments(),
  ) -> np.ndarray:
    """Scores to learn from, [B]: scaled, clipped, and less for a lacking end.

    Args:
      found_B: of the judge.
      ended_B: whether a completion came to its own end.
      moments: that they are scaled by; of nothing = not at all.
    """
    if moments.size and self.centre:
      found_B = found_B - moments.mean
    if moments.deviation:  # what is all the same has none
      found_B = found_B / moments.deviation
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
