"""However layers are run, adapters do the same; and a matrix that can fail."""

import chex
import jax
import numpy as np
import pytest

from tests.peft import furniture, matrix_test


@pytest.mark.parametrize("name", ["dora", "houlsby", "prefix"])
def test_scanned_is_unrolled_and_remat_is_none(name):
  def gradients(**shape):
    made = furniture.make(name, **shape)
    state = furniture.start(made)
    policy = state.roles["policy"]
    moved = policy | {"adapters": furniture.drawn(policy["adapters"])}
    grad = jax.grad(lambda a: made.score(policy | {"adapters": a}).sum())
    return jax.jit(grad)(moved["adapters"])

  with jax.enable_x64(True):
    want = gradients()
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(want))
    for shape in ({"unroll": 0}, {"remat": "full"}):
      chex.assert_trees_all_close(gradients(**shape), want, atol=1e-10)


def test_mutants_of_the_matrix_are_caught():
  """A B that is not zero; a weight that trains and does not move."""
  with jax.enable_x64(True):
    made = furniture.make("lora")
    policy = furniture.start(made).roles["policy"]
    moved = policy | {"adapters": furniture.drawn(policy["adapters"])}
    with pytest.raises(AssertionError):
      matrix_test.begins_at_the_base("lora", made, moved)
  before = {"a": np.ones(2), "b": np.ones(2)}
  with pytest.raises(AssertionError):
    matrix_test.only_what_trains_has_moved(
      "lora", before, before | {"a": np.zeros(2)}
    )
