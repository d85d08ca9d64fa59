"""Tensors of a folder of the `peft` library -> collection "adapters".

Layers without an adapter have zeros (of IA3, ones), which do nothing; lower
ranks are filled up with zeros.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax import trees
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.folder import Folder, Tensor
from llm_jax.interop.lines import Line
from llm_jax.interop.peft import Told
from llm_jax.interop.peft_maps import Map, maps, names, PROMPT, Sizes


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
    sizes: of the base.
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
  if not found:
    raise ValueError(f"{folder.given}: holds no tensor at all")
  reader = _Reader(folder, found, sizes, np.dtype(dtype))
  out: dict[str, Any] = {}
  if told.kind == "PROMPT_TUNING":
    line = Line("prompt", PROMPT, "X D")
    out["prompt"] = reader.one(line, "XD", PROMPT, X=told.tokens)
  read_map = {"LORA": _lora, "IA3": _ia3}.get(told.kind)
  for its in maps(lines, suffixes) if read_map else ():
    assert read_map is not None
    for name, x in read_map(reader, told, its).items():
      trees.put(out, f"{its.path}/{name}", x)
  # Of adapters "_" is a dim of 1; a map before a head has one of the base's.
  wide = lambda line: {k: n for k, n in sizes[line.stack].items() if k == "_"}
  replaced = {
    line.path: reader.one(line, suffix, name, **wide(line))
    for name, line in whole.items()
    if name in found and (suffix := trees.get(suffixes, line.path))
  }
  reader.check_all_used()
  for name in told.saved:
    there = (f".{whole[n].name}." for n in whole if n in found)
    if not any(f".{name}." in its_name for its_name in there):
      raise ValueError(f"{folder.given}: {name} is missing")
  return out, replaced


class _Reader:
  """Reads tensors, and knows which of them were not."""

  def __init__(
    self,
    folder: Folder,
    found: Mapping[str, Tensor],
    sizes: Sizes,
    dtype: np.dtype,
  ):
    self.folder, self.found = folder, found
    self.sizes, self.dtype = sizes, dtype
    self._left = dict(found)

  def one(self, line: Line, suffix: str, name: str, **more: int) -> np.ndarray:
    """What a tensor holds of one layer of an array of ours."""
    if name not in self.found:
      raise ValueError(f"{self.folder.given}: {name} is missing")
    sizes = {**self.sizes[line.stack], "_": 1, **more}
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
  for layer in range(reader.sizes[its.line.stack]["L"]):
    module = its.modules.format(layer=layer)
    lines = {kind: its.array(kind) for kind in kinds}
    called = {
      k: line.name.format(layer=layer) for k, (line, _) in lines.items()
    }
    wanted, there = told.wants(module, layer), found.keys() & called.values()
    if there and told.says_all and not wanted:
      raise _unsaid(reader, min(there))
    if not there and not wanted:
      rows.append({})
      scales.append(0.0)
      continue
    rank = told.rank_of(module)
    rows.append(
      {
        k: reader.one(line, suffix, called[k], R=rank)
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


def _unsaid(reader: _Reader, name: str) -> ValueError:
  return ValueError(
    f"{reader.folder.given}: {name} is there, and by target_modules,"
    " exclude_modules or layers_to_transform there is none"
  )


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
  layers = range(reader.sizes[its.line.stack]["L"])
  for layer in layers:
    line, suffix = its.array("output_scale")
    kind, name = "output_scale", line.name.format(layer=layer)
    wanted = told.wants(its.modules.format(layer=layer), layer)
    if name in reader.found and told.says_all and not wanted:
      raise _unsaid(reader, name)
    if name not in reader.found:
      if wanted:
        raise ValueError(f"{reader.folder.given}: {name} is missing")
      continue
    if reader.found[name].shape[:1] == (1,):
      kind, (line, suffix) = "input_scale", its.array("input_scale")
    x = reader.one(line, suffix, name)
    x = x[..., 0] if kind == "output_scale" else x[0]
    rows.setdefault(kind, {})[layer] = x
  out = {}
  for kind, found in rows.items():
    one = np.ones_like(next(iter(found.values())))
    out[kind] = np.stack([found.get(layer, one) for layer in layers])
  return out
