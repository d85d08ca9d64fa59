"""Adapters folded into the base."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_jax import axes, trees

_MERGEABLE = (
  *("a", "b", "scale", "dropout", "magnitude"),
  *("input_scale", "output_scale"),
  *("special", "special_head"),
)


def merge(params: Any, adapters: Any, suffixes: Any) -> Any:
  """The base that does alone what it did with its adapters.

  Raises:
    ValueError: an adapter that is no change of a weight of the base.
  """
  for path, _ in trees.paths(adapters):
    if path.rpartition("/")[2] not in _MERGEABLE:
      raise ValueError(
        f"{path}: cannot be merged into the base's own weights; use the"
        " adapter as it is"
      )
  out = _merged(params, adapters, suffixes)
  if "special" in adapters:
    added_GE = adapters["special"]
    out["embedding"] = out["embedding"].at[: len(added_GE)].add(added_GE)
  if "special_head" in adapters:
    added_GD = adapters["special_head"]
    out["head"] = out["head"].at[:, : len(added_GD)].add(added_GD.T)
  return out


def _merged(params: Any, adapters: Any, suffixes: Any) -> Any:
  if not isinstance(params, dict):
    return params
  if "kernel" in params and isinstance(adapters, dict):
    return _map(params, adapters, suffixes["kernel"])
  adapters = adapters if isinstance(adapters, dict) else {}
  return {
    name: _merged(x, adapters.get(name), suffixes[name])
    for name, x in params.items()
  }


def _map(params: dict, adapter: dict, suffix: str) -> dict:
  kernel = params["kernel"]
  L, s = len(kernel), 1 + axes.num_inputs(suffix)
  rows = int(np.prod(kernel.shape[1:s]))
  w_LIO = kernel.reshape(L, rows, -1)
  out = dict(params)
  if "a" in adapter:
    a, b = adapter["a"].reshape(L, rows, -1), adapter["b"]
    w_LIO += adapter["scale"][:, None, None] * (
      a @ b.reshape(L, b.shape[1], -1)
    )
  if "magnitude" in adapter:
    norm = jnp.linalg.norm(w_LIO, axis=1, keepdims=True)
    w_LIO *= adapter["magnitude"].reshape(L, 1, -1) / norm
  if "input_scale" in adapter:
    w_LIO *= adapter["input_scale"].reshape(L, rows, 1)
  if "output_scale" in adapter:
    w_LIO *= adapter["output_scale"].reshape(L, 1, -1)
    if "bias" in params:
      out["bias"] = params["bias"] * adapter["output_scale"]
  return out | {"kernel": w_LIO.reshape(kernel.shape)}
