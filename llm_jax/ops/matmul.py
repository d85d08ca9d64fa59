"""A dense map of the last dim, fast in both directions on every device.

Dimension key: M rows of activations; I inputs; O outputs.
"""

import jax

from llm_jax import axes


def matmul(x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
  """The product x @ kernel over the last dim of x, in their dtype.

  On a CPU the weights' gradient x^T g is computed from row-major operands, the
  transpose made first: XLA's fast CPU kernel takes no others, and left alone
  the compiler falls back on a slower one (60 against 80 GFLOP/s a core). Not
  where positions are cut over devices, which would gather them for it.
  """
  if axes.platform() != "cpu" or axes.cuts("T") > 1:
    return _product(x, kernel_IO)
  return _with_row_major_gradient(x, kernel_IO)


def _product(x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
  return jax.lax.dot_general(x, kernel_IO, (((x.ndim - 1,), (0,)), ((), ())))


@jax.custom_vjp
def _with_row_major_gradient(x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
  return _product(x, kernel_IO)


def _forward(x: jax.Array, kernel_IO: jax.Array) -> tuple:
  return _product(x, kernel_IO), (x, kernel_IO)


def _backward(saved: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel_IO = saved
  dx = jax.lax.dot_general(g, kernel_IO, (((g.ndim - 1,), (1,)), ((), ())))
  x_MI, g_MO = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
  barrier = jax.lax.optimization_barrier
  # Whichever has fewer columns is transposed: that costs least.
  if x_MI.shape[1] <= g_MO.shape[1]:
    return dx, barrier(barrier(x_MI.T) @ g_MO)
  return dx, barrier(barrier(g_MO.T) @ x_MI).T


_with_row_major_gradient.defvjp(_forward, _backward)
