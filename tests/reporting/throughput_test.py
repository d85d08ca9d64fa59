import pytest

from llm_jax.reporting import throughput


class Clock:
  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(throughput.time, "monotonic", lambda: self.now)


def test_waits_between_steps_are_left_out(monkeypatch):
  clock = Clock(monkeypatch)
  meter, naive = throughput.Meter(), throughput.Meter()
  meter.tick(10)
  naive.tick(10)
  assert meter.tokens_per_second == 0.0
  for _ in range(4):
    clock.now += 2.0
    meter.tick(10)
    naive.tick(10)
  assert meter.tokens_per_second == 5.0
  meter.pause()
  clock.now += 60.0  # a validation
  meter.tick(10)
  naive.tick(10)
  clock.now += 2.0
  meter.tick(10)
  assert meter.tokens_per_second == 5.0
  assert naive.tokens_per_second < 1.0  # the mutant: no pause


def test_it_is_the_time_of_the_last_steps_that_counts(monkeypatch):
  clock = Clock(monkeypatch)
  meter = throughput.Meter(window=3)
  for seconds, tokens in ((0, 8), (9, 8), (1, 8), (2, 4), (1, 4)):
    clock.now += seconds
    meter.tick(tokens)
  assert meter.tokens_per_second == pytest.approx(16 / 4)
  # Tokens over time, not a mean of rates.
  assert meter.tokens_per_second != pytest.approx((8 + 2 + 4) / 3)


def test_mfu_by_hand():
  # Two H100s: 1e5 tokens/s of 6e9 flops are 6e14 of 2 x 989e12.
  found = throughput.mfu(1e5, 6e9, "NVIDIA H100 80GB HBM3", 2)
  assert found == pytest.approx(0.30333670)
  assert throughput.mfu(1e5, 6e9, "cpu", 2) is None
