"""Each group of rows times a matrix of its own.

Dimension key: P rows, group after group; M groups; I inputs; O outputs; C rows
taken at once.
"""

from typing import Any

import jax
import jax.numpy as jnp

_ROWS = 128  # C, at most


@jax.custom_vjp
def matmul(
  rows_PI: jax.Array, kernel_MIO: jax.Array, sizes_M: jax.Array
) -> jax.Array:
  """Row p of group m times kernel m: [P, O]. Rows past the last group give 0.

  Accelerators have a kernel for it. XLA's form of that for a CPU multiplies
  every row by every matrix, so there a loop takes C rows of one
  group at a time: P + M C rows are multiplied at most, whatever the sizes.

  Args:
    rows_PI: rows of group 0, then those of group 1, and so on.
    kernel_MIO: a matrix each.
    sizes_M: i32, rows of each group, none to all; their sum is P at most.
      Inside of `jax.shard_map` all three vary over the same axes.
  """
  return jax.lax.platform_dependent(
    rows_PI, kernel_MIO, sizes_M, cpu=_loop, default=_kernel
  )


def _forward(
  rows_PI: jax.Array, kernel_MIO: jax.Array, sizes_M: jax.Array
) -> tuple[jax.Array, tuple]:
  saved = rows_PI, kernel_MIO, sizes_M
  return matmul(*saved), saved


def _backward(saved: tuple, g_PO: jax.Array) -> tuple:
  rows_PI, kernel_MIO, sizes_M = saved
  drows_PI = matmul(g_PO, kernel_MIO.swapaxes(1, 2), sizes_M)
  dkernel_MIO = jax.lax.platform_dependent(
    rows_PI, g_PO, sizes_M, cpu=_loop_of_outer, default=_kernel_of_outer
  )
  return drows_PI, dkernel_MIO, None


matmul.defvjp(_forward, _backward)


def _kernel(
  rows_PI: jax.Array, kernel_MIO: jax.Array, sizes_M: jax.Array
) -> jax.Array:
  out_PO = jax.lax.ragged_dot(rows_PI, kernel_MIO, sizes_M)
  # What a kernel writes in rows of no group nobody promises.
  there_P1 = jnp.arange(len(rows_PI))[:, None] < sizes_M.sum()
  return jnp.where(there_P1, out_PO, 0)


def _kernel_of_outer(
  rows_PI: jax.Array, g_PO: jax.Array, sizes_M: jax.Array
) -> jax.Array:
  """Of each group, rows^T g: [M, I, O]."""
  dims = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())
  return jax.lax.ragged_dot_general(rows_PI, g_PO, sizes_M, dims)


def _loop(
  rows_PI: jax.Array, kernel_MIO: jax.Array, sizes_M: jax.Array
) -> jax.Array:
  def put(at: jax.Array, group: jax.Array, x_CI: jax.Array, out: Any) -> Any:
    # Rows of the next group among these are written once more, then right.
    return jax.lax.dynamic_update_slice_in_dim(
      out, x_CI @ kernel_MIO[group], at, 0
    )

  P, O = len(rows_PI), kernel_MIO.shape[2]
  return _chunks(put, (P + _rows_at_once(P), O), sizes_M, rows_PI)[:P]


def _loop_of_outer(
  rows_PI: jax.Array, g_PO: jax.Array, sizes_M: jax.Array
) -> jax.Array:
  C = _rows_at_once(len(g_PO))
  padded = jnp.pad(g_PO, ((0, C), (0, 0)))

  def add(at: jax.Array, group: jax.Array, x_CI: jax.Array, out: Any) -> Any:
    g_CO = jax.lax.dynamic_slice_in_dim(padded, at, C, 0)
    return out.at[group].add(x_CI.T @ g_CO)

  shape = (len(sizes_M), rows_PI.shape[1], g_PO.shape[1])
  return _chunks(add, shape, sizes_M, rows_PI)


def _rows_at_once(P: int) -> int:
  return min(P, _ROWS)


def _chunks(
  take: Any, shape: tuple[int, ...], sizes_M: jax.Array, rows_PI: jax.Array
) -> jax.Array:
  """Take(first row, group, rows_CI, so far) for C rows of a group at a time.

  It begins with zeros of the shape. Rows that are not of the group are 0.
  """
  C = _rows_at_once(len(rows_PI))
  num_chunks_M = -(-sizes_M // C)
  last_M, end_M = jnp.cumsum(num_chunks_M), jnp.cumsum(sizes_M)
  padded = jnp.pad(rows_PI, ((0, C), (0, 0)))

  def step(i: jax.Array, out: jax.Array) -> jax.Array:
    group = (last_M <= i).sum()
    place = i - (last_M[group] - num_chunks_M[group])
    at = end_M[group] - sizes_M[group] + place * C
    x_CI = jax.lax.dynamic_slice_in_dim(padded, at, C, 0)
    inside_C1 = (at + jnp.arange(C))[:, None] < end_M[group]
    return take(at, group, jnp.where(inside_C1, x_CI, 0), out)

  # A zero that inside of shard_map differs between devices, as rows do.
  zero = (0 * last_M[-1]).astype(rows_PI.dtype)
  return jax.lax.fori_loop(0, last_M[-1], step, jnp.full(shape, zero))
