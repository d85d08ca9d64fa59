"""What training itself watches: that its numbers stay finite."""

import math

from llm_jax.contracts import Hook


class NonFiniteError(FloatingPointError):
  """A loss or gradient is not finite; the message names the step."""


class DivergedError(FloatingPointError):
  """A run had better not go on; all of its processes know it together."""


class Finite(Hook):
  """Stops at a non-finite loss or gradient norm, or after `limit` skips.

  Skips are counted over the whole run, resumes included.
  """

  def __init__(self, limit: int = 0):
    self.limit = limit

  def read(self, step: int, numbers: dict[str, float]) -> None:
    bad = [n for n in ("loss", "grad_norm") if not math.isfinite(numbers[n])]
    count = int(numbers["skipped"])
    if bad and count > self.limit:
      raise NonFiniteError(
        f"step {step}: {', '.join(f'{n} is {numbers[n]}' for n in bad)};"
        f" such steps: {count}, --skip_nonfinite={self.limit} allows"
        f" {self.limit}. The last checkpoint is good; a lower --optimizer.peak"
        " may help"
      )
