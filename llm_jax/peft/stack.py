"""Several adapters on one base: all at once, or each for its own rows.

An adapter is collection "adapters" as `Method.add` makes it and training
leaves it, its suffixes lost.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import trees

# What a map's leaf is where an adapter does not have it.
_NEUTRAL = {
  **dict.fromkeys(("a", "b", "scale", "dropout", "bias"), 0.0),
  **dict.fromkeys(("down", "down_bias", "up", "up_bias"), 0.0),
  **dict.fromkeys(("special", "special_head"), 0.0),
  **dict.fromkeys(("input_scale", "output_scale"), 1.0),
}
_DIM_OF_RANK = {"a": -1, "b": 1, "down": -1, "down_bias": -1, "up": 1}


def together(adapters: Sequence[Any]) -> Any:
  """One adapter that does what all do, for generation (dropout is dropped).

  Of LoRA the ranks stand side by side, x (a1 | a2) (s1 b1 ; s2 b2); the scales
  of IA3 are multiplied, biases and what special tokens get are added.

  Raises:
    ValueError: two that change the same thing in ways that do not add.
  """
  return functools.reduce(_pair, map(_folded, adapters))


def rows(adapters: Sequence[Any]) -> Any:
  """Adapters on a new leading dim, to be taken one a row.

  Each gets what another has and it has not as zeros or ones that do nothing,
  and lower ranks are filled up with zeros.

  Raises:
    ValueError: one has what no numbers can make do nothing for another, as
      virtual tokens.
  """
  flat = [dict(trees.paths(_folded(a))) for a in adapters]
  out: dict[str, Any] = {}
  for path in dict.fromkeys(p for one in flat for p in one):
    name = path.rpartition("/")[2]
    found = [one.get(path) for one in flat]
    shapes = {x.shape for x in found if x is not None}
    if name not in _NEUTRAL and (len(shapes) > 1 or None in found):
      raise ValueError(
        f"{path}: not the same size in all adapters of a batch, or not in all;"
        " give one at a time"
      )
    shape = tuple(np.max(list(shapes), axis=0))
    leaves = [_filled(x, shape, name) for x in found]
    trees.put(out, path, jnp.stack(leaves))
  return out


def _filled(x: Any, shape: tuple[int, ...], name: str) -> Any:
  if x is None:
    return jnp.full(shape, _NEUTRAL[name])
  return jnp.pad(x, [(0, n - m) for n, m in zip(shape, x.shape, strict=True)])


def _folded(adapter: Any) -> Any:
  """The same adapter with LoRA's scale within b, and no dropout."""

  def fold(tree: Any) -> Any:
    if not isinstance(tree, dict):
      return tree
    out = {name: fold(x) for name, x in tree.items() if name != "dropout"}
    if "b" in out:
      scale, b = out["scale"], out["b"]
      out["b"] = b * scale.reshape(-1, *[1] * (b.ndim - 1))
      out["scale"] = jnp.ones_like(scale)
    return out

  return fold(adapter)


def _pair(one: Any, two: Any) -> Any:
  a, b = dict(trees.paths(one)), dict(trees.paths(two))
  out: dict[str, Any] = {}
  for path in dict.fromkeys((*a, *b)):
    one_only = a.get(path, b.get(path))
    is_shared = path in a and path in b
    leaf = _both(path, a[path], b[path]) if is_shared else one_only
    trees.put(out, path, leaf)
  for path in _ending(out, "magnitude"):
    site = path.rpartition("/")[0]
    if any(f"{site}/a" in x and path not in x for x in (a, b)):
      raise ValueError(f"{path}: DoRA cannot be stacked with LoRA there")
  return out


def _ending(tree: Any, name: str) -> list[str]:
  """Paths whose last part is a name."""
  return [p for p, _ in trees.paths(tree) if p.rpartition("/")[2] == name]


def _both(path: str, x: jax.Array, y: jax.Array) -> jax.Array:
  name = path.rpartition("/")[2]
  if name in ("a", "b"):
    return jnp.concatenate([x, y], _DIM_OF_RANK[name])
  if name == "scale":
    return x  # 1, once folded
  if name in ("input_scale", "output_scale"):
    return x * y
  if name == "bias":
    return x + y
  if name in ("special", "special_head"):
    shape = (max(len(x), len(y)), x.shape[1])
    return _filled(x, shape, name) + _filled(y, shape, name)
  raise ValueError(f"{path}: in both adapters, and two of it cannot be stacked")
