"""Means that add, weights that sum to one, products with their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import matmul, weights
from llm_jax.ops.metrics import Mean


def test_means_of_parts_add_up_to_the_mean_of_the_whole():
  r = np.random.default_rng(0)
  value, mask = r.normal(size=(8, 5)), r.random((8, 5)) < 0.4
  mask[0], mask[1], value[0] = True, False, value[0] + 3
  with jax.enable_x64(True):
    parts = [
      Mean.of(jnp.asarray(v), jnp.asarray(m))
      for v, m in zip(value, mask, strict=True)
    ]
    whole = parts[0]
    for part in parts[1:]:
      whole += part
  np.testing.assert_allclose(whole.compute(), value[mask].mean(), rtol=1e-13)
  # Mutant: the mean of the parts' means.
  wrong = np.mean([p.compute() for p in parts])
  assert abs(wrong - value[mask].mean()) > 1e-2


def test_means_by_hand():
  x = jnp.array([1.0, 2.0, 6.0])
  assert Mean.of(x).compute() == 3
  assert Mean.of(x, jnp.array([True, False, True])).compute() == 3.5
  assert Mean.of(x, jnp.array([1.0, 0.0, 3.0])).compute() == 19 / 4
  assert Mean.of(x, jnp.zeros(3, bool)).compute() == 0
  total = Mean.sum(jnp.asarray(3.0)) + Mean.sum(jnp.asarray(4.0))
  assert total.compute() == 7
  assert len(jax.tree.leaves(jax.jit(lambda m: m + m)(Mean.of(x)))) == 2


MASK = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)


def test_weights_by_hand():
  token = weights.token_mean(jnp.asarray(MASK))
  sequence = weights.sequence_mean(jnp.asarray(MASK))
  np.testing.assert_allclose(token, MASK / 5)
  np.testing.assert_allclose(sequence, [[1 / 8] * 4, [1 / 2, 0, 0, 0], [0] * 4])
  assert np.abs(token - sequence).max() > 0.1  # each catches the other


@pytest.mark.parametrize("of", [weights.token_mean, weights.sequence_mean])
def test_weights_sum_to_one_or_to_nothing(of):
  with jax.enable_x64(True):
    for seed in range(5):
      mask = np.random.default_rng(seed).random((6, 7)) < 0.2
      weight = of(jnp.asarray(mask))
      assert weight.dtype == np.float64
      np.testing.assert_allclose(weight.sum(), 1, rtol=1e-14)
      assert (weight[~mask] == 0).all() and (weight[mask] > 0).all()
    assert (of(jnp.zeros((2, 3), bool)) == 0).all()


@pytest.mark.parametrize("shape", [(6, 3, 4), (6, 4, 9), (2, 3, 5, 4)])
def test_products_and_their_gradients_are_the_plain_ones(shape):
  """Both orders of the transpose: more inputs than outputs, and fewer."""
  *rows, I, O = shape
  r = np.random.default_rng(0)
  with jax.enable_x64(True):
    x, w = (
      jnp.asarray(r.normal(size=(*rows, I))),
      jnp.asarray(r.normal(size=(I, O))),
    )
    g = jnp.asarray(r.normal(size=(*rows, O)))

    def of(f):
      y, back = jax.vjp(f, x, w)
      return y, *back(g)

    got, want = of(jax.jit(matmul.matmul)), of(lambda x, w: x @ w)
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    by_rows = lambda g: np.asarray(x).reshape(-1, I).T @ g.reshape(-1, O)
    np.testing.assert_allclose(got[2], by_rows(g), rtol=1e-12, atol=1e-13)
    assert np.abs(got[2] - by_rows(g[::-1])).max() > 0.1  # rows out of order


def test_products_keep_their_dtype():
  x, w = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 5), jnp.bfloat16)
  y, back = jax.vjp(matmul.matmul, x, w)
  assert [a.dtype for a in (y, *back(y))] == [jnp.bfloat16] * 3
