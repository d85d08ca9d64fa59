"""Each group's rows times its own matrix, by a naive loop over groups."""

import jax
import numpy as np
import pytest

from llm_jax.ops import grouped

P, I, O = 11, 3, 5
SIZES = {
  "even": [3, 3, 3, 2],
  "some empty": [0, 7, 0, 4],
  "rows of none": [2, 0, 3, 1],
  "all to one": [0, 0, 11, 0],
  "nothing": [0, 0, 0, 0],
}


def naive(rows, kernel, sizes):
  """The product, then gradients of sum(product * g)."""
  r = np.random.default_rng(1)
  g = r.normal(size=(P, O))
  out, drows = np.zeros((P, O)), np.zeros_like(rows)
  dkernel, at = np.zeros_like(kernel), 0
  for m, size in enumerate(sizes):
    for p in range(at, at + size):
      out[p] = rows[p] @ kernel[m]
      drows[p] = kernel[m] @ g[p]
      dkernel[m] += np.outer(rows[p], g[p])
    at += size
  return g, out, drows, dkernel


def drawn():
  r = np.random.default_rng(0)
  return r.normal(size=(P, I)), r.normal(size=(4, I, O))


def found(matmul, rows, kernel, sizes, g):
  def both(rows, kernel):
    out, pull = jax.vjp(lambda r, k: matmul(r, k, sizes), rows, kernel)
    return out, *pull(g)

  return jax.jit(both)(rows, kernel)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("chunk", [2, 128])
def test_it_is_a_loop_over_groups_and_rows(sizes, chunk, monkeypatch):
  monkeypatch.setattr(grouped, "_ROWS", chunk)
  rows, kernel = drawn()
  g, *want = naive(rows, kernel, sizes)
  with jax.enable_x64(True):
    sizes = np.array(sizes, np.int32)
    for got, right in zip(
      found(grouped.matmul, rows, kernel, sizes, g), want, strict=True
    ):
      np.testing.assert_allclose(got, right, atol=1e-13)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_loop_and_the_accelerators_kernel_are_one(sizes):
  """That of an accelerator, run here as XLA has it for a CPU."""
  rows, kernel = drawn()
  g, out, _, dkernel = naive(rows, kernel, sizes)
  with jax.enable_x64(True):
    sizes = np.array(sizes, np.int32)
    got = grouped._kernel(rows, kernel, sizes)
    outer = grouped._kernel_of_outer(rows, g, sizes)
  np.testing.assert_allclose(got, out, atol=1e-13)
  np.testing.assert_allclose(outer, dkernel, atol=1e-13)


def test_mutant_every_row_by_the_first_matrix_is_caught():
  rows, kernel = drawn()
  _, out, *_ = naive(rows, kernel, SIZES["even"])
  wrong = found(lambda r, k, s: r @ k[0], rows, kernel, None, np.ones((P, O)))[
    0
  ]
  assert np.abs(wrong - out).max() > 0.1


def test_a_chunk_that_is_written_over_leaves_no_trace(monkeypatch):
  """Chunks of 4 reach into the next group, whose rows are not zero there."""
  monkeypatch.setattr(grouped, "_ROWS", 4)
  rows, kernel = drawn()
  sizes = [1, 1, 1, 1]
  _, out, *_ = naive(rows, kernel, sizes)
  with jax.enable_x64(True):
    got = jax.jit(grouped.matmul)(rows, kernel, np.array(sizes, np.int32))
  np.testing.assert_allclose(got, out, atol=1e-13)
  assert (np.asarray(got)[4:] == 0).all()
