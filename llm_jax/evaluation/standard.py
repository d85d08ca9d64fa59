"""Rewards brought to mean 0 and deviation 1 on reference completions."""

import dataclasses
from typing import Any, Literal, NamedTuple

import numpy as np

from llm_jax.config import field
from llm_jax.evaluation.pairs import Completions

Kind = Literal["gain_and_bias", "bias", "none"]


@dataclasses.dataclass(frozen=True)
class Rewards:
  """What becomes of a reward model's rewards once it is trained."""

  normalise: Kind = field(
    "gain_and_bias",
    "bring the rewards of reference completions to mean 0 and deviation 1; or,"
    " by a bias alone, to mean 0; or leave all as they are",
  )
  references: int = field(
    256, "completions, the best of their prompts, at most", low=2
  )


class Line(NamedTuple):
  """Gain times reward + bias, of a number or an array."""

  gain: float = 1.0
  bias: float = 0.0

  def __call__(self, reward: Any) -> Any:
    return self.gain * reward + self.bias


def best(found: Completions) -> np.ndarray:
  """Rewards of each prompt's best completions, in order."""
  return found.reward_GK[found.rank_GK == 0].astype(np.float64)


def line(reward: np.ndarray, kind: Kind) -> Line:
  """What brings rewards to mean 0 and, by its gain, to deviation 1.

    gain = 1 / s,  bias = -gain m

  with m and s their mean and standard deviation. Ziegler et al. 2019,
  arXiv:1909.08593, section 2, on samples of the policy that begins; Stiennon et
  al. 2020, arXiv:2009.01325, section 3.4, on reference summaries, and by a
  bias. Rewards that are all the same leave the gain at 1.

  Raises:
    ValueError: there is no reward, or one that is not finite.
  """
  bad = int((~np.isfinite(reward)).sum())
  if bad or not len(reward):
    raise ValueError(
      f"--rewards.normalise={kind}: {bad} of the rewards of {len(reward)}"
      " reference completions are not finite; none = leave rewards as they are"
    )
  if kind == "none":
    return Line()
  deviation = float(reward.std()) if kind == "gain_and_bias" else 0.0
  gain = 1 / deviation if deviation > 0 else 1.0
  return Line(gain, -gain * float(reward.mean()))
