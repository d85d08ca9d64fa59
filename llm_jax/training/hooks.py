"""What training itself watches: that its numbers stay finite."""

import math
from typing import Any


class NonFiniteError(FloatingPointError):
  """A loss or gradient is not finite; the message names the step."""


class Finite:
  """Stops at a non-finite loss or gradient norm, or after `limit` skips."""

  def __init__(self, limit: int = 0):
    self.limit = limit

  def read(self, step: int, numbers: dict[str, float]) -> None:
    skipped = numbers.get("skipped", 0)
    if self.limit and skipped <= self.limit:
      return
    bad = [n for n in ("loss", "grad_norm") if not math.isfinite(numbers[n])]
    if bad:
      raise NonFiniteError(
        f"step {step}: {', '.join(f'{n} is {numbers[n]}' for n in bad)}"
        f" after {int(skipped)} skipped steps; the last checkpoint is good."
        " Lower --optimizer.peak, or allow --skip_nonfinite=N steps"
      )

  def due(self, step: int) -> bool:
    del step
    return False

  def act(self, step: int, state: Any) -> None:
    del step, state
