"""What rewards say of a split: who is right, how surely, and how lengthily.

All is of pairs of completions of one prompt of which one is better. Each
prompt counts once, its pairs alike; a reward that is the same for both is
right on half of them.

Dimension key: G prompts; K completions of each; P pairs.
"""

from typing import NamedTuple

import numpy as np

from llm_jax.evaluation import calibration


class Completions(NamedTuple):
  """Completions of a split, those of one prompt side by side."""

  reward_GK: np.ndarray
  length_GK: np.ndarray  # tokens
  rank_GK: np.ndarray  # lower is better, the same is a tie; -1 = none is there


class Pairs(NamedTuple):
  """Differences, better completion less worse one."""

  margin_P: np.ndarray  # of rewards
  longer_P: np.ndarray  # tokens
  weight_P: np.ndarray  # sums to 1


def pairs(found: Completions) -> Pairs:
  """Every pair of one prompt's completions that is no tie.

  Raises:
    ValueError: there is none, or rewards are not finite.
  """
  rank_GK, there_GK = found.rank_GK, found.rank_GK >= 0
  bad = int((~np.isfinite(found.reward_GK[there_GK])).sum())
  if bad:
    raise ValueError(
      f"the rewards of {bad} of {there_GK.sum()} completions are not finite"
    )
  better_GKK = rank_GK[:, :, None] < rank_GK[:, None, :]
  better_GKK &= there_GK[:, :, None] & there_GK[:, None, :]
  count_G = better_GKK.sum((1, 2))
  if not count_G.any():
    raise ValueError("there is no pair to evaluate on")
  prompt_P, better_P, worse_P = np.nonzero(better_GKK)
  less = lambda x_GK: x_GK[prompt_P, better_P] - x_GK[prompt_P, worse_P]
  return Pairs(
    less(found.reward_GK.astype(np.float64)),
    less(found.length_GK.astype(np.float64)),
    1 / count_G[prompt_P] / (count_G > 0).sum(),
  )


def right(margin: np.ndarray) -> np.ndarray:
  """1 where the better one has more, 1/2 where both have the same."""
  return (np.sign(margin) + 1) / 2


def measure(found: Completions) -> dict[str, float]:
  """Figures of a split.

  Returns:
    accuracy        share of pairs whose better completion has more reward
    margin          mean of better less worse, in the unit of rewards
    ece             expected calibration error, see `confidence`
    chosen_longer   accuracy where the better completion is the longer one
    chosen_shorter  likewise, the shorter one
    length_correlation  of rewards and lengths, each less its prompt's mean
    reward_mean, reward_std  of all completions
    pairs           how many

  What no pair tells is left out.
  """
  p, there_GK = pairs(found), found.rank_GK >= 0
  right_P, reward = right(p.margin_P), found.reward_GK[there_GK]
  out = {
    "accuracy": _mean(right_P, p.weight_P),
    "margin": _mean(p.margin_P, p.weight_P),
    "ece": confidence(found).error,
    "chosen_longer": _mean(right_P, p.weight_P * (p.longer_P > 0)),
    "chosen_shorter": _mean(right_P, p.weight_P * (p.longer_P < 0)),
    "length_correlation": _length_correlation(found),
    "reward_mean": float(reward.mean(dtype=np.float64)),
    "reward_std": float(reward.std(dtype=np.float64)),
    "pairs": float(len(p.margin_P)),
  }
  return {k: v for k, v in out.items() if not np.isnan(v)}


def baselines(found: Completions) -> dict[str, dict[str, float]]:
  """What can be had without a model.

  majority          always the first or always the second: no better than a
                    coin, as the order of a pair says nothing
  longer_is_better  the longer completion, in tokens
  """
  p = pairs(found)
  longer = _mean(right(p.longer_P), p.weight_P)
  return {
    "majority": {"accuracy": 0.5},
    "longer_is_better": {"accuracy": longer},
  }


def confidence(
  found: Completions, bins: int = calibration.BINS
) -> calibration.Calibration:
  """What Bradley-Terry gives the completion with more reward.

  It is sigmoid(|margin|), in [0.5, 1].
  """
  p = pairs(found)
  sure_P = 1 / (1 + np.exp(-abs(p.margin_P)))
  return calibration.of(sure_P, right(p.margin_P), p.weight_P, 0.5, bins)


def _length_correlation(found: Completions) -> float:
  there_GK = found.rank_GK >= 0
  count_G1 = np.maximum(there_GK.sum(1, keepdims=True), 1)

  def apart(x_GK: np.ndarray) -> np.ndarray:
    x_GK = np.where(there_GK, x_GK, 0).astype(np.float64)
    return np.where(there_GK, x_GK - x_GK.sum(1, keepdims=True) / count_G1, 0)

  r_GK, l_GK = apart(found.reward_GK), apart(found.length_GK)
  scale = np.sqrt((r_GK**2).sum() * (l_GK**2).sum())
  return float((r_GK * l_GK).sum() / scale) if scale else float("nan")


def _mean(x: np.ndarray, weight: np.ndarray) -> float:
  total = weight.sum()
  return float((x * weight).sum() / total) if total else float("nan")
