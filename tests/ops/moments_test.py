"""Moments of parts are those of the whole."""

import numpy as np
import pytest

from llm_jax.ops.moments import Moments

R = np.random.default_rng(0)
WHOLE = 7 + R.normal(size=60) * R.uniform(0, 9, 60)


def mean_of_variances(parts):
  """The mutant: batches' own variances, put together."""
  return np.sqrt(np.mean([p.var(ddof=1) for p in parts if len(p) > 1]))


@pytest.mark.parametrize("cuts", [[], [30], [1, 2, 40], range(1, 60)])
def test_parts_add_up_to_the_whole(cuts):
  parts = np.split(WHOLE, list(cuts))
  found = Moments()
  for part in parts:
    found = found.joined(part)
  assert found.size == 60
  assert found.mean == pytest.approx(WHOLE.mean(), rel=1e-13)
  assert found.deviation == pytest.approx(WHOLE.std(ddof=1), rel=1e-13)
  assert found.deviation != pytest.approx(WHOLE.std(), rel=1e-3)
  if len(parts) in (2, 4):
    assert mean_of_variances(parts) != pytest.approx(found.deviation, rel=1e-2)


def test_far_from_zero_no_digits_are_lost():
  """The mutant: the mean of squares less the square of the mean."""
  far = WHOLE + 1e9
  found = Moments().joined(far[:20]).joined(far[20:])
  assert found.deviation == pytest.approx(WHOLE.std(ddof=1), rel=1e-6)
  naive = (far**2).mean() - far.mean() ** 2
  assert abs(naive / WHOLE.var() - 1) > 1e-3


def test_fewer_than_two_numbers_have_no_deviation():
  assert Moments().deviation == 0
  assert Moments().joined(np.array([3.0])).deviation == 0
