"""Learning rate as a function of the step."""

import dataclasses
from typing import Literal

import optax

from llm_jax.config import field


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Warm-up from 0 to the peak, then a decay to a share of it.

  Step i (from 0) of the warm-up w is taken at peak (i + 1) / w. The floor is
  where the decay would be after the last step: the last of n cosine steps is
  taken at 1 - 1 / (n - w) of the way. A run no longer than the warm-up ends
  within it.

  wsd (warmup, stable, decay): constant, then linear over the last part of the
  run; arXiv:2404.06395, section 4.2, with a linear tail (arXiv:2405.18392).
  """

  kind: Literal["cosine", "linear", "wsd", "constant"] = field(
    "cosine", "what follows the warm-up"
  )
  warmup: int = field(100, "steps from 0 to the peak", low=0)
  floor: float = field(0.1, "final rate, as a share of the peak", low=0, high=1)
  decay: float = field(
    0.2, "share of all steps that wsd decays for", low=0, high=1
  )
  every: int = field(
    1,
    "steps that share a rate, that of their first; PPO: those of an update",
    low=1,
  )

  def make(self, peak: float, steps: int) -> optax.Schedule:
    """Step (from 0) -> learning rate, over a run of `steps`."""
    smooth = self._smooth(peak, steps)
    if self.every == 1:
      return smooth
    return lambda step: smooth(step - step % self.every)

  def _smooth(self, peak: float, steps: int) -> optax.Schedule:
    # The first step is taken at peak / warmup, not at 0.
    warm = optax.linear_schedule(
      peak / max(self.warmup, 1), peak, max(self.warmup - 1, 1)
    )
    rest = max(steps - self.warmup, 1)
    if self.kind == "cosine":
      after = optax.cosine_decay_schedule(peak, rest, self.floor)
    elif self.kind == "linear":
      after = optax.linear_schedule(peak, self.floor * peak, rest)
    elif self.kind == "wsd":
      tail = min(max(round(self.decay * steps), 1), rest)
      after = optax.linear_schedule(
        peak, self.floor * peak, tail, transition_begin=rest - tail
      )
    else:
      after = optax.constant_schedule(peak)
    if not self.warmup:
      return after
    return optax.join_schedules([warm, after], [self.warmup])
