"""Collection "adapters" -> tensors as the `peft` library keeps them."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from llm_jax import trees
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.lines import Line
from llm_jax.interop.peft_maps import Map, PREFIX, PROMPT, Sizes


def written(
  adapters: Any, its: Sequence[Map], sizes: Sizes
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, float]]]:
  """Adapters as their tensors, and rank and scale of each map with LoRA.

  Args:
    adapters: collection "adapters".
    its: maps of the base.
    sizes: of the base.

  Raises:
    ValueError: arrays of another kind, or of a map that peft cannot adapt.
  """
  left = {p for p, _ in trees.paths(adapters)}
  out: dict[str, np.ndarray] = {}
  about: dict[str, tuple[int, float]] = {}
  if "prompt" in adapters:
    out[PROMPT] = np.asarray(adapters["prompt"])
    left.remove("prompt")
  by_module = lambda one: one.modules
  for module, group in itertools.groupby(sorted(its, key=by_module), by_module):
    parts = list(group)
    found = [
      {k: np.asarray(x) for k, x in (trees.get(adapters, m.path) or {}).items()}
      for m in parts
    ]
    left -= {
      f"{m.path}/{k}" for m, x in zip(parts, found, strict=True) for k in x
    }
    if not any(found):
      continue
    scale = next((x["scale"] for x in found if "scale" in x), None)
    its_sizes = sizes[parts[0].line.stack]
    whole = _together(module, parts, found, its_sizes)
    if scale is not None:
      if any(s != scale[0] for x in found for s in x.get("scale", ())):
        raise ValueError(f"{module}: peft has one scale for it in all layers")
      about[module] = (whole[0]["a"].shape[-1], float(scale[0]))
    for one, arrays in zip(parts, whole, strict=True):
      for kind, x in arrays.items():
        _put(out, one, kind, x, its_sizes)
  if left:
    raise ValueError(
      f"adapters/{sorted(left)[0]}: peft has no such array of this base"
    )
  return {
    n if n == PROMPT else PREFIX + n: np.ascontiguousarray(x)
    for n, x in out.items()
  }, about


def replaced(
  params: Mapping[str, np.ndarray], lines: Sequence[Line], suffixes: Any
) -> dict[str, np.ndarray]:
  """Params of the base that were trained themselves, by the names of theirs.

  Args:
    params: ours, by path.
    lines: of the base's table.
    suffixes: of the base's params.

  Raises:
    ValueError: one that is not a tensor of its own.
  """
  whole = {line.path: line for line in lines if not line.counted}
  out = {}
  for path, x in params.items():
    line = whole.get(path)
    if line is None or "+" in line.dims:
      raise ValueError(f"{path}: trained itself, and peft has no place for it")
    suffix = trees.get(suffixes, path)
    out[line.name] = np.ascontiguousarray(lines_lib.theirs(line, suffix, x))
  return out


def _together(
  module: str,
  parts: Sequence[Map],
  found: Sequence[dict[str, np.ndarray]],
  sizes: Mapping[str, int],
) -> list[dict[str, np.ndarray]]:
  """The arrays of maps that are one map of theirs: all have one A.

  Where theirs differ, A is all of them side by side, and B of each has zeros
  for those of the others.
  """
  kinds = {k for x in found for k in x if k not in ("scale", "dropout")}
  if kinds >= {"input_scale", "output_scale"}:
    raise ValueError(
      f"{module}: peft scales a map's inputs or outputs, not both"
    )
  if "bias" in kinds:
    raise ValueError(f"{module}: peft has no biases alone")
  if "magnitude" in kinds and any("magnitude" not in x for x in found):
    raise ValueError(
      f"{module}: peft's DoRA is of a whole tensor, and only a part has it"
    )
  if "input_scale" in kinds:
    alike = {
      x["input_scale"].tobytes() if "input_scale" in x else b"" for x in found
    }
    if len(alike) > 1:
      raise ValueError(
        f"{module}: peft scales the inputs of a whole tensor, and its parts"
        " have others"
      )
  alike = {x["a"].tobytes() for x in found if "a" in x}
  starts = itertools.accumulate(
    (x["a"].shape[-1] if "a" in x else 0 for x in found), initial=0
  )
  *begin, total = starts
  a = [x["a"] for x in found if "a" in x]
  out: list[dict[str, np.ndarray]] = []
  for one, x, start in zip(parts, found, begin, strict=True):
    arrays = {k: x[k] for k in kinds if k in x}
    if a:
      rank = a[0].shape[-1] if len(alike) == 1 else total
      arrays["a"] = a[0] if len(alike) == 1 else np.concatenate(a, -1)
      outs = [sizes[c] for c in one.array("b")[1][2:]]
      b = np.zeros((sizes["L"], rank, *outs), a[0].dtype)
      if "b" in x:
        first = 0 if len(alike) == 1 else start
        b[:, first : first + x["b"].shape[1]] = x["b"]
      arrays["b"] = b
    if "output_scale" in kinds and "output_scale" not in x:
      outs = [sizes[c] for c in one.array("magnitude")[1][1:]]
      arrays["output_scale"] = np.ones((sizes["L"], *outs))
    out.append(arrays)
  return out


def _put(
  out: dict[str, np.ndarray],
  one: Map,
  kind: str,
  x: np.ndarray,
  sizes: Mapping[str, int],
) -> None:
  """Writes an array into the tensors of all layers."""
  line, suffix = one.array(kind)
  every = dict(sizes) | {"_": 1}
  if kind == "a":
    every["R"] = x.shape[-1]
  if kind == "b":
    every["R"] = x.shape[1]
  x = x.reshape([every[c] for c in suffix])
  for (at,), name in line.names(every):
    tensor = out.setdefault(name, np.empty(line.shape(every), x.dtype))
    where, _ = line.where(every, {})
    tensor[where] = lines_lib.theirs(line, suffix, x[at.start])
