"""Learning rates at the corners, by hand, and what holds between them."""

import itertools
import math

import numpy as np
import pytest

from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

HALF = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))
LAST = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 79 / 80))


@pytest.mark.parametrize(
  ("kind", "want"),
  [
    ("cosine", {60: HALF, 99: LAST, 100: 0.1, 1000: 0.1}),
    ("linear", {60: 0.55, 99: 0.1 + 0.9 / 80, 100: 0.1, 1000: 0.1}),
    ("wsd", {60: 1, 75: 1, 85: 0.64, 99: 0.1 + 0.9 / 25, 100: 0.1}),
    ("constant", {60: 1, 99: 1, 1000: 1}),
  ],
)
def test_values_at_the_corners(kind, want):
  """20 steps of warm-up, 80 of the rest, of which wsd decays for 25."""
  rate = Schedule(kind, warmup=20, floor=0.1, decay=0.25).make(3.0, 100)
  both = {0: 1 / 20, 9: 0.5, 18: 0.95, 19: 1, 20: 1}
  for step, share in (both | want).items():
    np.testing.assert_allclose(rate(step), 3.0 * share, rtol=1e-5)


def test_the_classic_mistakes_are_not_these():
  rate = Schedule("cosine", warmup=20).make(1.0, 100)
  assert rate(0) > 0  # a first step at 0 is a step for nothing
  late = Schedule("cosine", warmup=0).make(1.0, 100)  # decay from step 0
  assert abs(late(60) - rate(60)) > 0.1


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_a_rate_may_stay_for_an_update(kind):
  """Steps 0 to 3 share the rate of step 0; the mutant is a smooth one."""
  schedule = Schedule(kind, warmup=0, floor=0.0, decay=0.9)
  smooth = np.array([float(schedule.make(1.0, 12)(i)) for i in range(12)])
  stairs = Schedule(kind, warmup=0, floor=0.0, decay=0.9, every=4)
  found = np.array([float(stairs.make(1.0, 12)(i)) for i in range(12)])
  np.testing.assert_array_equal(found, np.repeat(smooth[::4], 4))
  assert (smooth != found).sum() >= 6
  if kind == "linear":  # lr (1 - update / updates)
    np.testing.assert_allclose(found[::4], [1, 2 / 3, 1 / 3], rtol=1e-6)


CASES = itertools.product(
  ["cosine", "linear", "wsd", "constant"],
  [0, 1, 2, 7],  # warm-up
  [0.0, 0.3, 1.0],  # floor
  [0.0, 0.3, 1.0],  # decay
  [8, 40],  # steps
)


def jump(values):
  return max(abs(a - b) for a, b in itertools.pairwise(values))


def test_continuous_never_negative_never_above_the_peak():
  steps = np.arange(60)
  for kind, warmup, floor, decay, total in CASES:
    schedule = Schedule(kind, warmup, floor, decay)
    values = np.broadcast_to(schedule.make(2.0, total)(steps), steps.shape)
    assert values.min() >= min(2.0 * floor, 2.0 / max(warmup, 1)) - 1e-6
    assert values.max() <= 2.0 + 1e-6
    assert values[max(warmup - 1, 0)] == pytest.approx(2.0)
    if kind != "constant":
      assert values[total] == pytest.approx(2.0 * floor, abs=1e-6)
    falls = {"wsd": max(round(decay * total), 1)}.get(kind, total - warmup)
    falls = min(falls, total - warmup)
    steepest = max(2.0 / max(warmup, 1) * (warmup > 1), math.pi / falls)
    assert jump(values) <= steepest + 1e-6, schedule
  # The mutant: a warm-up that starts the decay at half its peak.
  assert jump(np.where(steps < 7, steps / 7, 0.5)) > 0.3


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("steps", [0, 1, 5, 10])
def test_a_run_no_longer_than_the_warm_up_ends_within_it(kind, steps):
  rate = Schedule(kind, warmup=10).make(1.0, steps)
  np.testing.assert_allclose(
    [rate(i) for i in range(steps)], [(i + 1) / 10 for i in range(steps)], 1e-5
  )


def test_the_optimiser_reports_the_rate_that_it_uses():
  settings = AdamW(0.5, Schedule("linear", warmup=2, floor=0.0), None, 0.0)
  chain, rate = settings.make(4, "D"), settings.learning_rate(4)
  p = np.zeros(1, np.float32)
  state = chain.init(p)
  for i in range(4):
    update, state = chain.update(np.ones(1, np.float32), state, p)
    np.testing.assert_allclose(-update, rate(i), rtol=1e-5)
  assert float(rate(4)) == 0
