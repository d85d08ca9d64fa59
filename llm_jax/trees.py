"""Trees of arrays: paths, and the two halves (trainable, frozen) of a tree."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp


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


def split(
  tree: Any, is_trainable: Callable[[str], bool | int]
) -> tuple[Any, Any]:
  """Parts a tree by path into two of its shape; None marks the other side.

  A box around an array (Flax metadata) counts as one leaf. Of stacked layers
  the last n may be trained: both sides then hold their part of the leaf.

  Args:
    tree: of arrays.
    is_trainable: path -> whether the leaf is trained, or how many of its last
      rows are (a whole number that is no bool).
  """

  def pick(side: bool) -> Any:
    def one(path: Any, x: Any) -> Any:
      chosen = is_trainable(path_string(path))
      if isinstance(chosen, bool):
        return x if chosen == side else None
      rows = lambda a: a[-chosen:] if side else a[:-chosen]
      return x.replace_boxed(rows(x.unbox())) if _is_box(x) else rows(x)

    return jax.tree_util.tree_map_with_path(one, tree, is_leaf=_is_box)

  return pick(True), pick(False)


def join(trainable: Any, frozen: Any) -> Any:
  """The inverse of `split`."""

  def one(t: Any, f: Any) -> Any:
    if t is None or f is None:
      return f if t is None else t
    return jnp.concatenate([f, t])

  return jax.tree.map(one, trainable, frozen, is_leaf=lambda x: x is None)


def get(tree: Any, path: str) -> Any:
  """The leaf or subtree at "blocks/mlp/up" of nested dicts; None if none."""
  for name in path.split("/"):
    if not isinstance(tree, dict) or name not in tree:
      return None
    tree = tree[name]
  return tree


def put(tree: dict, path: str, leaf: Any) -> None:
  """Sets a leaf of nested dicts, making what is missing on the way."""
  *parents, last = path.split("/")
  for name in parents:
    tree = tree.setdefault(name, {})
  tree[last] = leaf


def overlay(tree: Any, part: Any) -> Any:
  """Nested dicts with the leaves of another wherever it has them."""
  if not isinstance(part, dict):
    return part
  return {
    **tree,
    **{name: overlay(tree.get(name, {}), x) for name, x in part.items()},
  }


def _is_box(x: Any) -> bool:
  return hasattr(x, "unbox")


def size(tree: Any) -> int:
  """Number of elements in all leaves."""
  return sum(x.size for x in jax.tree.leaves(tree))


def num_bytes(tree: Any) -> int:
  """Bytes of all leaves."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
