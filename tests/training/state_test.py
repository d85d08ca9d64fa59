"""The state: two halves, a moving average, and buffers that are used again."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import trees
from llm_jax.training import state as state_lib
from tests.training import quadratic

ROLES = {
  "policy": {"a": jnp.arange(2.0), "b": jnp.arange(3.0)},
  "value": {"a": jnp.ones(4)},
}


def create(is_trainable=lambda path: True, **kwargs):
  return state_lib.create(
    ROLES, is_trainable, optax.adam(1.0), jax.random.key(0), **kwargs
  )


def test_halves_join_to_all_roles():
  state = create(lambda path: path == "policy/b", average=True)
  assert [p for p, _ in trees.paths(state.trainable)] == ["policy/b"]
  assert [p for p, _ in trees.paths(state.frozen)] == ["policy/a", "value/a"]
  for whole in (state.roles, state.averaged):
    assert jax.tree.structure(whole) == jax.tree.structure(ROLES)
    jax.tree.map(np.testing.assert_array_equal, whole, ROLES)
  assert (int(state.step), int(state.skipped)) == (0, 0)


def steps(n, average=0.8):
  make, step = quadratic.make(average=average)
  state, source, seen = make(), quadratic.Rows(), []
  for _ in range(n):
    seen.append(np.array(state.trainable["policy"]["w_D"], np.float64))
    state, _ = step(state, source.next(state))
  seen.append(np.array(state.trainable["policy"]["w_D"], np.float64))
  return state, seen


def test_the_average_is_its_closed_form():
  """a_n = d^n w_0 + (1 - d) sum_i d^(n - i) w_i, and the weights ignore it."""
  state, seen = steps(5)
  d, n = 0.8, 5
  want = d**n * seen[0] + (1 - d) * sum(
    d ** (n - i) * seen[i] for i in range(1, n + 1)
  )
  got = state.averaged["policy"]["w_D"]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  np.testing.assert_array_equal(state.roles["policy"]["w_D"], seen[-1])
  # The mutant: one step late, averaging the weights before the update.
  late = d**n * seen[0] + (1 - d) * sum(
    d ** (n - i) * seen[i - 1] for i in range(1, n + 1)
  )
  assert np.abs(late - want).max() > 1e-2
  _, without = steps(5, average=None)
  np.testing.assert_array_equal(seen, without)


@pytest.mark.parametrize("average", [None, 0.9])
def test_every_buffer_of_a_donated_state_is_used_again(average):
  make, step = quadratic.make(average=average)
  state = make()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    new, _ = step(state, quadratic.Rows().next(state))
  assert all(x.is_deleted() for x in jax.tree.leaves(state))
  assert not any(x.is_deleted() for x in jax.tree.leaves(new))


def test_one_array_twice_in_a_donated_state_is_caught():
  """The mutant: an average that is the trained weights' own arrays."""
  make, step = quadratic.make(average=0.9)
  state = make()
  mutant = dataclasses.replace(state, average=state.trainable)
  with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="donate"):
    jax.block_until_ready(step(mutant, quadratic.Rows().next(state)))


def test_a_state_that_keeps_an_average_needs_its_decay():
  make, _ = quadratic.make(average=0.9)
  _, step = quadratic.make(average=None)
  with pytest.raises(ValueError, match="average_decay"):
    step(make(), quadratic.Rows().next(None))
