"""How frozen weights are held: as they are, or in fewer bits."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax import axes, trees
from llm_jax.ops import quantise

Held = Literal["same", "bfloat16", "int8", "nf4"]


def hold(
  params: Any,
  suffixes: Any,
  is_trainable: Callable[[str], bool | int],
  held: Held,
) -> tuple[Any, Any]:
  """(params, quantised), both boxed: what is frozen, in `held`.

  With int8 and nf4 the blocks' kernels go to the second tree, as
  `ops.quantise` makes them; every other frozen weight becomes bfloat16.
  """
  kept: dict[str, Any] = {}
  quantised: dict[str, Any] = {}
  for path, suffix in trees.paths(suffixes):
    x = trees.get(params, path)
    if held == "same" or is_trainable(f"params/{path}") is not False:
      trees.put(kept, path, axes.box(x, suffix))
    elif held != "bfloat16" and _is_kernel(path, suffix):
      first = axes.num_stacked(suffix)
      dims = tuple(range(first, first + axes.num_inputs(suffix)))
      codes = quantise.quantise(x, held, dims)
      box = lambda leaf, suffix=suffix: axes.box(leaf, suffix)
      trees.put(quantised, path, jax.tree.map(box, codes))
    else:
      trees.put(kept, path, axes.box(x.astype(jnp.bfloat16), suffix))
  return kept, quantised


def seen(params: Any, kept: Any, quantised: Any) -> Any:
  """The params as the model sees them once held, in their own dtypes."""

  def one(path: Any, x: jax.Array) -> jax.Array:
    name = trees.path_string(path)
    codes = trees.get(quantised, name)
    if codes is not None:
      return quantise.dequantise(axes.unbox(codes), x.dtype)
    return axes.unbox(trees.get(kept, name)).astype(x.dtype)

  return jax.tree_util.tree_map_with_path(one, params)


def _is_kernel(path: str, suffix: str) -> bool:
  return path.endswith("/kernel") and suffix.startswith("L")
