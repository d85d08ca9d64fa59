"""Rows of a batch as microbatches, and back.

Dimension key: B rows; n microbatches; g rows of a group.
"""

import jax

from llm_jax import axes


def cut(x: jax.Array, n: int, group: int = 1) -> jax.Array:
  """[B, ...] -> [n, B / n, ...]; group r goes to microbatch r mod n.

  So rows that are cut over devices are cut again inside each of them, and none
  moves between devices.

  Args:
    x: of B rows, which n g divides.
    n: how many microbatches.
    group: g; so many rows, one after the other, are never parted.
  """
  rest = x.shape[1:]
  x = x.reshape(x.shape[0] // (n * group), n, group, *rest)
  x = x.swapaxes(0, 1).reshape(n, -1, *rest)
  return axes.constrain(x, "_B" + "_" * (x.ndim - 2))


def paste(x: jax.Array, group: int = 1) -> jax.Array:
  """The inverse of `cut`."""
  n, rest = x.shape[0], x.shape[2:]
  return x.reshape(n, -1, group, *rest).swapaxes(0, 1).reshape(-1, *rest)
