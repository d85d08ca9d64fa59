"""A number that is not finite is skipped where told to, else it stops."""

import math

import jax
import numpy as np
import pytest

from llm_jax.contracts import Hook
from llm_jax.training import hooks, loop
from tests.training import quadratic


class Keep(Hook):
  """Host copies of the weights after each step, and the losses."""

  def __init__(self):
    self.weights, self.losses, self.skipped = {}, {}, {}

  def read(self, step, numbers):
    self.losses[step] = numbers["loss"]
    self.skipped[step] = numbers.get("skipped", 0)

  def due(self, step):
    return True

  def act(self, step, state):
    self.weights[step] = jax.device_get(state.trainable["policy"]["w_D"]).copy()


def run(bad, limit, until=8, state=None, source=None):
  create, step = quadratic.make()
  keep, source = Keep(), source or quadratic.Rows(bad)
  watch = [hooks.Finite(limit), keep]
  try:
    state = loop.train(state or create(), step, source, watch, until)
  except hooks.NonFiniteError as e:
    return keep, str(e)
  return keep, state


def test_the_first_bad_step_stops_and_is_named():
  keep, error = run(bad=(3,), limit=0)
  assert error.startswith("step 3: loss is ")
  assert "such steps: 1, --skip_nonfinite=0 allows 0" in error
  assert list(keep.weights) == [1, 2]  # nothing is done with a bad state
  assert np.isfinite(keep.weights[2]).all()


def test_without_the_hook_nobody_stops():
  """The mutant: nobody looks at the numbers."""
  create, step = quadratic.make()
  keep = Keep()
  loop.train(create(), step, quadratic.Rows((3,)), [keep], 4)
  assert list(keep.weights) == [1, 2, 3, 4]


def test_skipped_steps_leave_the_weights_and_are_counted():
  keep, state = run(bad=(3, 5), limit=2)
  np.testing.assert_array_equal(keep.weights[3], keep.weights[2])
  np.testing.assert_array_equal(keep.weights[5], keep.weights[4])
  assert (keep.weights[4] != keep.weights[3]).all()
  assert not math.isfinite(keep.losses[3]) and math.isfinite(keep.losses[4])
  assert (int(state.step), int(state.skipped)) == (8, 2)
  assert list(keep.skipped.values()) == [0, 0, 1, 1, 2, 2, 2, 2]


def test_one_more_than_the_limit_stops_and_is_named():
  keep, error = run(bad=(3, 5, 6), limit=2)
  assert error.startswith("step 6: ")
  assert "such steps: 3, --skip_nonfinite=2 allows 2" in error
  assert list(keep.weights) == [1, 2, 3, 4, 5]


def test_the_count_outlives_a_resume():
  source = quadratic.Rows(bad=(3, 5, 6))
  _, state = run((), 2, until=4, source=source)
  assert int(state.skipped) == 1
  _, error = run((), 2, state=state, source=source)
  assert error.startswith("step 6: ")


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_either_number_stops(name, bad):
  numbers = {"loss": 1.0, "grad_norm": 1.0, "skipped": 0.0}
  hooks.Finite().read(1, numbers)
  with pytest.raises(hooks.NonFiniteError, match=f"step 2: {name} is"):
    hooks.Finite().read(2, numbers | {name: bad, "skipped": 1.0})
