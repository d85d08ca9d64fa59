"""Means and variances of parts are those of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops.metrics import Mean, Variance

R = np.random.default_rng(0)
X = jnp.asarray(1 + R.normal(size=(6, 8)) / 99, jnp.float32)
MASK = jnp.asarray(np.arange(8) <= np.arange(6)[:, None])
SEEN = np.asarray(X, np.float64)[np.asarray(MASK)]


@pytest.mark.parametrize("cuts", [1, 2, 6])
def test_a_variance_of_parts_is_that_of_the_whole(cuts):
  parts = [
    Variance.of(x, m, around=1.0)
    for x, m in zip(jnp.split(X, cuts), jnp.split(MASK, cuts), strict=True)
  ]
  found = parts[0]
  for part in parts[1:]:
    found = found + part
  assert found.compute() == pytest.approx(SEEN.var(), rel=1e-5)
  if cuts > 1:  # the mutant: a mean of variances
    mean = np.mean([part.compute() for part in parts])
    assert mean != pytest.approx(SEEN.var(), rel=1e-2)


def test_what_it_is_counted_from_does_not_matter_but_for_digits():
  far = Variance.of(X, MASK, around=3.0).compute()
  assert far == pytest.approx(SEEN.var(), rel=0.1)
  shifted = Variance.of(X - 1, MASK, around=0.0).compute()
  assert shifted == pytest.approx(SEEN.var(), rel=1e-5)


def test_nothing_has_no_variance():
  nothing = Variance.of(X, jnp.zeros_like(MASK))
  assert nothing.compute() == 0 == Mean.of(X, jnp.zeros_like(MASK)).compute()
  one = Variance.of(X, MASK.at[:, 1:].set(False).at[1:].set(False))
  assert one.compute() == pytest.approx(0, abs=1e-6)


def test_it_goes_through_a_scan_as_a_mean_does():
  """As microbatches do."""

  def add(total, x_m):
    return jax.tree.map(jnp.add, total, Variance.of(*x_m, around=1.0)), None

  zero = jax.tree.map(jnp.zeros_like, Variance.of(X[0], MASK[0]))
  found, _ = jax.lax.scan(add, zero, (X, MASK))
  assert found.compute() == pytest.approx(SEEN.var(), rel=1e-5)
