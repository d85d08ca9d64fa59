"""How fast, and how much of what the hardware could do."""

import collections
import time

# Dense bfloat16 flop/s of one device, by JAX's device_kind, from the vendors'
# data sheets. Each core of a TPU7x is a device.
PEAK = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153.5e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H200": 989e12,
}


def mfu(
  tokens_per_second: float, flops_per_token: float, kind: str, devices: int
) -> float | None:
  """Model flops utilisation, PaLM (arXiv:2204.02311) app. B; None = unknown."""
  peak = PEAK.get(kind)
  if peak is None:
    return None
  return tokens_per_second * flops_per_token / (peak * devices)


class Meter:
  """Tokens a second over the last steps, waits in between left out."""

  def __init__(self, window: int = 50):
    self._steps: collections.deque = collections.deque(maxlen=window)
    self._last: float | None = None

  def tick(self, tokens: float) -> None:
    """A step of this many tokens is done."""
    now = time.monotonic()
    if self._last is not None:
      self._steps.append((now - self._last, tokens))
    self._last = now

  def pause(self) -> None:
    """What follows (a save, a validation) is not training."""
    self._last = None

  @property
  def tokens_per_second(self) -> float:
    """0 before the second step."""
    seconds = sum(s for s, _ in self._steps)
    return sum(t for _, t in self._steps) / seconds if seconds else 0.0
