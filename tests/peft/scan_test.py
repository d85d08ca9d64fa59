"""However layers are run, adapters do the same; and a matrix that can fail."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from tests.peft import furniture, matrix_test


@pytest.mark.parametrize("name", ["dora", "ia3", "houlsby", "prefix"])
def test_gradients_looped_are_unrolled(name):
  """Of other numbers than training begins at; scores are in the matrix."""
  with jax.enable_x64(True):
    made = furniture.make(name, mesh="1")
    policy = matrix_test.moved(furniture.start(made).roles["policy"])

    def gradients(unroll):
      shape = dataclasses.replace(made.model.shape, unroll=unroll)
      score = furniture.scorer(shape)
      grad = jax.grad(
        lambda a: score(policy | {"adapters": a}, made.batch).sum()
      )
      return jax.jit(grad)(policy["adapters"])

    want = gradients(1)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(want))
    chex.assert_trees_all_close(gradients(0), want, atol=1e-10)


def test_mutants_of_the_matrix_are_caught():
  """A scale that is not one; a weight that trains and does not move."""
  with jax.enable_x64(True):
    made = furniture.make("ia3", mesh="1")
    moved = matrix_test.moved(furniture.start(made).roles["policy"])
    with pytest.raises(AssertionError):
      matrix_test.begins_at_the_base("ia3", made, moved)
  before = {"a": np.ones(2), "b": np.ones(2)}
  with pytest.raises(AssertionError):
    matrix_test.only_what_trains_has_moved(
      "lora", before, before | {"a": np.zeros(2)}
    )
