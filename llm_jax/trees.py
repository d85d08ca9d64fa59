"""Trees of arrays: paths, and the two halves (trainable, frozen) of a tree."""

from collections.abc import Callable, Iterator
from typing import Any

import jax


def path_string(path: Any) -> str:
  """A key path as "policy/params/embed/table"."""
  return "/".join(
    str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))))
    for k in path
  )


def paths(tree: Any) -> Iterator[tuple[str, Any]]:
  """Yields (path, leaf), in tree order."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield path_string(path), leaf


def split(tree: Any, is_trainable: Callable[[str], bool]) -> tuple[Any, Any]:
  """Parts a tree by path into two of its shape; None marks the other side.

  A box around an array (Flax metadata) counts as one leaf.
  """

  def pick(side: bool) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda p, x: x if is_trainable(path_string(p)) == side else None,
      tree,
      is_leaf=lambda x: hasattr(x, "unbox"),
    )

  return pick(True), pick(False)


def join(trainable: Any, frozen: Any) -> Any:
  """The inverse of `split`."""
  return jax.tree.map(
    lambda t, f: f if t is None else t,
    trainable,
    frozen,
    is_leaf=lambda x: x is None,
  )


def size(tree: Any) -> int:
  """Number of elements in all leaves."""
  return sum(x.size for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
  """Bytes of all leaves."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
