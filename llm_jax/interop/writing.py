"""Our parameters -> tensors in safetensors, by the same lines as are read."""

from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from llm_jax import storage, trees
from llm_jax.contracts import Progress
from llm_jax.interop import folder as folders
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.lines import Line, Sizes, Slices

DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "float16": np.dtype(np.float16),
  "float64": np.dtype(np.float64),
}


class _Tensor(NamedTuple):
  """One of theirs: its shape, and what of ours it is made of."""

  shape: tuple[int, ...]
  parts: list[tuple[Line, Slices]]


def write(
  folder: pathlib.Path,
  lines: Sequence[Line],
  params: Any,
  suffixes: Any,
  dtype: str,
  shard_bytes: int,
  progress: Progress,
) -> int:
  """Writes params as files of at most so many bytes, and their index.

  A tensor larger than that has a file to itself. One file's tensors are held
  in memory at once.

  Args:
    folder: that is there.
    lines: of a family's table, for all of the params.
    params: ours.
    suffixes: their dims.
    dtype: of the tensors, one of `DTYPES`.
    shard_bytes: of a file, at most.
    progress: shows that it goes on.

  Returns:
    Bytes of all tensors.
  """
  leaves = {path: x for path, x in trees.paths(params)}
  letters = {path: suffix for path, suffix in trees.paths(suffixes)}
  unsaid = sorted(set(leaves) - {line.path for line in lines})
  if unsaid:
    raise ValueError(f"{unsaid[0]}: has no name in the folder's format")
  sizes = lines_lib.sizes(leaves, letters)
  tensors = _tensors(lines, sizes)
  width = DTYPES[dtype].itemsize
  shards = _shards(tensors, width, shard_bytes)
  count = len(shards)
  files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
  if count == 1:
    files = [folders.ONE]
  listed: dict[str, str] = {}
  shown = progress(
    list(zip(files, shards, strict=True)), total=count, label="writing weights"
  )
  for file, names in shown:
    arrays = {
      name: _assembled(tensors[name], leaves, letters, sizes, DTYPES[dtype])
      for name in names
    }
    save(folder / file, arrays)
    listed |= dict.fromkeys(names, file)
  total = sum(math.prod(t.shape) * width for t in tensors.values())
  if count > 1:
    index = {"metadata": {"total_size": total}, "weight_map": listed}
    storage.write(folder / folders.INDEX, json.dumps(index, indent=1).encode())
  return total


def save(file: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """A file of tensors, under its name once it is whole."""
  partial = file.with_name(storage.partial_name(file.name))
  save_file(dict(arrays), partial, metadata={"format": "pt"})
  os.replace(partial, file)


def _tensors(
  lines: Sequence[Line], sizes: Mapping[str, Sizes]
) -> dict[str, _Tensor]:
  out: dict[str, _Tensor] = {}
  for line in lines:
    for at, name in line.names(sizes[line.stack]):
      shape = line.shape(sizes[line.stack])
      its = out.setdefault(name, _Tensor(shape, []))
      its.parts.append((line, at))
  return out


def _shards(
  tensors: Mapping[str, _Tensor], width: int, limit: int
) -> list[list[str]]:
  """Names of each file, in order."""
  shards: list[list[str]] = [[]]
  filled = 0
  for name, tensor in sorted(tensors.items()):
    size = math.prod(tensor.shape) * width
    if shards[-1] and filled + size > limit:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += size
  return shards


def _assembled(
  tensor: _Tensor,
  leaves: Mapping[str, jax.Array],
  letters: Mapping[str, str],
  sizes: Mapping[str, Sizes],
  dtype: np.dtype,
) -> np.ndarray:
  """One of their tensors, from all parts of it that we have."""
  out = np.empty(tensor.shape, dtype)
  for line, at in tensor.parts:
    mine = np.asarray(leaves[line.path][tuple(s.start for s in at)])
    where, _ = line.where(sizes[line.stack], {})
    out[where] = lines_lib.theirs(line, letters[line.path], mine)
  return out
