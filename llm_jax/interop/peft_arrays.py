"""Arrays of adapters as the `peft` library names and shapes them, both ways.

peft's A is [R, inputs] and B [outputs, R], and IA3's scale is [outputs, 1], or
[1, inputs] where inputs are scaled, each named by the map that it is for. A map
of theirs may be several of ours (queries, keys and values in one tensor): these
share A, and each has its part of the rest. Layers without an adapter have zeros
(of IA3, ones), which do nothing; lower ranks are filled up with zeros.
"""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from llm_jax import axes, trees
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.folder import Folder, Tensor
from llm_jax.interop.lines import Line
from llm_jax.interop.peft import Told

PREFIX = "base_model.model."
_PROMPT = "prompt_embeddings"
Sizes = Mapping[str, int]


class Map(NamedTuple):
  """A dense map, ours and theirs.

  Attributes:
    path: of ours: "blocks/attention/query".
    line: of its kernel.
    suffix: of its kernel: "LDNH".
  """

  path: str
  line: Line
  suffix: str

  @property
  def modules(self) -> str:
    """Name of theirs, with {layer}."""
    return self.line.name.removesuffix(".weight")

  @property
  def turned(self) -> bool:
    """Whether theirs is [inputs, outputs]."""
    ins = self.suffix[1 : 1 + axes.num_inputs(self.suffix)]
    return sorted(self.line.mine()[0]) == sorted(ins)

  def array(self, name: str) -> tuple[Line, str]:
    """The line of one of an adapter's arrays, and its suffix."""
    split = 1 + axes.num_inputs(self.suffix)
    ins, outs = self.suffix[1:split], self.suffix[split:]
    words = self.line.dims.split()
    theirs_in, theirs_out = words if self.turned else words[::-1]
    end, dims, suffix = {
      "a": ("lora_A.weight", f"R {theirs_in}", f"L{ins}R"),
      "b": ("lora_B.weight", f"{theirs_out} R", f"LR{outs}"),
      "magnitude": ("lora_magnitude_vector", theirs_out, f"L{outs}"),
      "output_scale": ("ia3_l", f"{theirs_out} _", f"L{outs}_"),
      "input_scale": ("ia3_l", f"_ {theirs_in}", f"L_{ins}"),
    }[name]
    line = Line(
      f"{self.path}/{name}", f"{self.modules}.{end}", dims, self.line.part
    )
    return line, suffix


def maps(lines: Sequence[Line], suffixes: Any) -> list[Map]:
  """Those of a table that adapters can be for, but for experts."""
  out = []
  for line in lines:
    suffix = trees.get(suffixes, line.path)
    if line.path.endswith("/kernel") and line.counted == "L" and suffix:
      out.append(Map(line.path.removesuffix("/kernel"), line, suffix))
  return out


def module(name: str) -> str:
  """The module that a tensor is for."""
  return name.partition(".lora_")[0].removesuffix(".ia3_l")


def names(folder: Folder, prefix: str, heads: set[str]) -> dict[str, Tensor]:
  """The tensors, by names of the base's modules.

  Args:
    folder: of the adapters.
    prefix: of names in a model with a head, that one without leaves out.
    heads: names of tensors that have no such prefix.
  """
  found = {n.removeprefix(PREFIX): x for n, x in folder.tensors().items()}
  if any(n.startswith(prefix) for n in found) or _PROMPT in found:
    return found
  return {n if n in heads else prefix + n: x for n, x in found.items()}


def read(
  folder: Folder,
  told: Told,
  lines: Sequence[Line],
  suffixes: Any,
  sizes: Sizes,
  dtype: Any,
  prefix: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """A folder's adapters, and what they replace of the base.

  Args:
    folder: to read.
    told: by its adapter_config.json.
    lines: of the base's table.
    suffixes: of the base's params.
    sizes: letter -> size, of the base.
    dtype: of the result.
    prefix: of the base's names in a model with a head.

  Returns:
    Collection "adapters", and params by path.

  Raises:
    ValueError: a tensor that is missing, of another shape, not finite, or that
      nothing reads.
  """
  whole = {line.name: line for line in lines if not line.counted}
  heads = {name for name in whole if not name.startswith(prefix)}
  found = names(folder, prefix, heads)
  reader = _Reader(folder, found, dict(sizes) | {"_": 1}, np.dtype(dtype))
  out: dict[str, Any] = {}
  if told.kind == "PROMPT_TUNING":
    line = Line("prompt", _PROMPT, "X D")
    reader.sizes["X"] = told.tokens
    out["prompt"] = reader.one(line, "XD", _PROMPT, reader.sizes)
  read_map = {"LORA": _lora, "IA3": _ia3}.get(told.kind)
  for its in maps(lines, suffixes) if read_map else ():
    assert read_map is not None
    for name, x in read_map(reader, told, its).items():
      trees.put(out, f"{its.path}/{name}", x)
  replaced = {
    line.path: reader.one(
      line, trees.get(suffixes, line.path), name, reader.sizes
    )
    for name, line in whole.items()
    if name in found and trees.get(suffixes, line.path)
  }
  reader.check_all_used()
  for name in told.saved:
    if not any(name in whole[n].name.split(".") for n in whole if n in found):
      raise ValueError(f"{folder.given}: {name} is missing")
  return out, replaced


class _Reader:
  """Reads tensors, and knows which of them were not."""

  def __init__(
    self,
    folder: Folder,
    found: Mapping[str, Tensor],
    sizes: dict[str, int],
    dtype: np.dtype,
  ):
    self.folder, self.found = folder, found
    self.sizes, self.dtype = sizes, dtype
    self._left = dict(found)

  def one(self, line: Line, suffix: str, name: str, sizes: Sizes) -> np.ndarray:
    """What a tensor holds of one layer of an array of ours."""
    if name not in self.found:
      raise ValueError(f"{self.folder.given}: {name} is missing")
    tensor, wanted = self.found[name], line.shape(sizes)
    if tensor.shape != wanted:
      raise ValueError(
        f"{self.folder.given}: {name} is {list(tensor.shape)}, and of this"
        f" base {list(wanted)}"
      )
    self._left.pop(name, None)
    where, _ = line.where(sizes, {})
    x = self.folder.read(tensor, where)
    x = lines_lib.ours(line, suffix, sizes, {}, x).astype(self.dtype)
    if not np.isfinite(x.astype(np.float64)).all():
      raise ValueError(
        f"{self.folder.given}: {name} has numbers that are not finite (NaN or"
        f" infinity, or too large for {self.dtype})"
      )
    return x

  def check_all_used(self) -> None:
    """ValueError for a tensor that nothing has read."""
    for name in self._left:
      raise ValueError(
        f"{self.folder.given}: {name} is a tensor for which this base has no"
        " place"
      )


def _lora(reader: _Reader, told: Told, its: Map) -> dict[str, np.ndarray]:
  """One map's arrays of LoRA; {} where no layer has any."""
  kinds = ("a", "b", "magnitude") if told.dora else ("a", "b")
  rows: list[dict[str, np.ndarray]] = []
  scales, found = [], reader.found
  for layer in range(reader.sizes["L"]):
    module = its.modules.format(layer=layer)
    lines = {kind: its.array(kind) for kind in kinds}
    called = {
      k: line.name.format(layer=layer) for k, (line, _) in lines.items()
    }
    there = any(name in found for name in called.values())
    if not there and not told.wants(module, layer):
      rows.append({})
      scales.append(0.0)
      continue
    sizes = reader.sizes | {"R": told.rank_of(module)}
    rows.append(
      {
        k: reader.one(line, suffix, called[k], sizes)
        for k, (line, suffix) in lines.items()
      }
    )
    scales.append(told.scale_of(module))
  full = next((row for row in rows if row), None)
  if full is None:
    return {}
  if told.dora and {} in rows:
    raise ValueError(
      f"{reader.folder.given}: {its.modules} has DoRA in some layers and in"
      " others not; all or none"
    )
  rank = max(row["a"].shape[-1] for row in rows if row)
  out = {
    kind: np.stack(
      [_filled(row.get(kind), full[kind], kind, rank) for row in rows]
    )
    for kind in kinds
  }
  return out | {"scale": np.asarray(scales, reader.dtype)}


def _filled(
  x: np.ndarray | None, like: np.ndarray, kind: str, rank: int
) -> np.ndarray:
  """An array of a rank, zeros where there is none."""
  at = {"a": like.ndim - 1, "b": 0}.get(kind)
  x = np.zeros_like(like) if x is None else x
  if at is None:
    return x
  more = [(0, rank - n if i == at else 0) for i, n in enumerate(x.shape)]
  return np.pad(x, more)


def _ia3(reader: _Reader, told: Told, its: Map) -> dict[str, np.ndarray]:
  """One map's scale; {} where no layer has any."""
  rows: dict[str, dict[int, np.ndarray]] = {}
  sizes, layers = reader.sizes, range(reader.sizes["L"])
  for layer in layers:
    line, suffix = its.array("output_scale")
    kind, name = "output_scale", line.name.format(layer=layer)
    if name not in reader.found:
      if told.wants(its.modules.format(layer=layer), layer):
        raise ValueError(f"{reader.folder.given}: {name} is missing")
      continue
    if reader.found[name].shape[:1] == (1,):
      kind, (line, suffix) = "input_scale", its.array("input_scale")
    x = reader.one(line, suffix, name, sizes)
    x = x[..., 0] if kind == "output_scale" else x[0]
    rows.setdefault(kind, {})[layer] = x
  out = {}
  for kind, found in rows.items():
    one = np.ones_like(next(iter(found.values())))
    out[kind] = np.stack([found.get(layer, one) for layer in layers])
  return out


def written(
  adapters: Any, its: Sequence[Map], sizes: Sizes
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, float]]]:
  """Adapters as their tensors, and rank and scale of each map with LoRA.

  Args:
    adapters: collection "adapters".
    its: maps of the base.
    sizes: letter -> size, of the base.

  Raises:
    ValueError: arrays of another kind, or of a map that peft cannot adapt.
  """
  left = {p for p, _ in trees.paths(adapters)}
  out: dict[str, np.ndarray] = {}
  about: dict[str, tuple[int, float]] = {}
  if "prompt" in adapters:
    out[_PROMPT] = np.asarray(adapters["prompt"])
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
    whole = _together(module, parts, found, sizes)
    if scale is not None:
      if any(s != scale[0] for x in found for s in x.get("scale", ())):
        raise ValueError(f"{module}: peft has one scale for it in all layers")
      about[module] = (whole[0]["a"].shape[-1], float(scale[0]))
    for one, arrays in zip(parts, whole, strict=True):
      for kind, x in arrays.items():
        _put(out, one, kind, x, sizes)
  if left:
    raise ValueError(
      f"adapters/{sorted(left)[0]}: peft has no such array of this base"
    )
  return {
    n if n == _PROMPT else PREFIX + n: np.ascontiguousarray(x)
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
  sizes: Sizes,
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
  out: dict[str, np.ndarray], one: Map, kind: str, x: np.ndarray, sizes: Sizes
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
