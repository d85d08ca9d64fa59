"""Several documents in a row, and the same as rows of one document each.

In a packed batch `segment_BT` numbers the documents of a row from 1, and a
column `x_BS` has at [b, s] what is known of document s + 1 of row b. Documents
that belong together have one number, in rows that follow each other. Where a
row has fewer than S, nothing of the others is in any mask.

Dimension key: B rows; S documents of a row, at most; T positions; M = B S
documents, those that belong together beside each other.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Batch = Mapping[str, Any]
_OF_ROWS = ("segment_BT", "position_BT")  # what a document alone has no need of


def count(batch: Batch) -> int:
  """S; 0 where every row is one document.

  What an encoder reads (`source_BS` and others) are positions, and no columns.
  """
  columns = (
    x.shape[1]
    for name, x in batch.items()
    if name.endswith("_BS") and not name.startswith("source_")
  )
  return next(columns, 0)


def column(batch: Batch, name: str) -> jax.Array | None:
  """[B, S], or [B] where every row is one document; None where it is not."""
  return batch.get(f"{name}_BS", batch.get(f"{name}_B"))


def inside(batch: Batch) -> jax.Array:
  """Where each document is, inside_BST."""
  number_S1 = 1 + jnp.arange(count(batch))[:, None]
  return batch["segment_BT"][:, None] == number_S1


def lengths(batch: Batch) -> jax.Array:
  """How many positions of each document are in `mask_BT`: [B, S], or [B]."""
  if not count(batch):
    return batch["mask_BT"].sum(-1)
  return (inside(batch) & batch["mask_BT"][:, None]).sum(-1)


def unpacked(batch: Batch, group: int) -> dict[str, jax.Array]:
  """The batch as M rows of one document each, the columns as x_B.

  A document stays where it was; the rest of its row is zero, and not there.

  Args:
    batch: a packed one.
    group: rows that belong together.
  """
  inside_BST, out = inside(batch), {}
  for name, x in batch.items():
    if name.endswith("_BS"):
      out[name[:-1]] = flat(x, group)
    elif name not in _OF_ROWS:
      out[name] = each(x, inside_BST, group)
  return out


def each(x_BT: jax.Array, inside_BST: jax.Array, group: int) -> jax.Array:
  """[B, T, ...] as [M, T, ...], zero outside of each document."""
  rest = x_BT.ndim - 2
  inside_BST = inside_BST.reshape(*inside_BST.shape, *(1,) * rest)
  return flat(jnp.where(inside_BST, x_BT[:, None], 0), group)


def flat(x_BS: jax.Array, group: int) -> jax.Array:
  """[B, S, ...] as [M, ...]; of a cut batch, nothing leaves its device."""
  B, S, *rest = x_BS.shape
  x_BS = x_BS.reshape(B // group, group, S, *rest)
  return x_BS.swapaxes(1, 2).reshape(B * S, *rest)


def rowwise(x_M: jax.Array, group: int, size: int) -> jax.Array:
  """The inverse of `flat`, S being `size`."""
  M, *rest = x_M.shape
  x_M = x_M.reshape(M // size // group, size, group, *rest)
  return x_M.swapaxes(1, 2).reshape(M // size, size, *rest)
