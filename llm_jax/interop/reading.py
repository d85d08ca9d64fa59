"""Tensors of a folder -> our parameters, each device reading its own part."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
import itertools
import math
from typing import Any

import jax
import numpy as np

from llm_jax import trees
from llm_jax.contracts import Progress
from llm_jax.interop import heads
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.family import Family
from llm_jax.interop.folder import Folder, Tensor
from llm_jax.interop.lines import Line, Sizes

_THREADS = 4  # that read tensors of one parameter, a part of each at once


def params(
  folder: Folder,
  family: Family,
  lines: Sequence[Line],
  abstract: Any,
  suffixes: Any,
  progress: Progress,
  new: tuple[str, ...] = (),
) -> Any:
  """A folder's weights as params; ValueError unless they are just those.

  Of the host's memory no more is used than the params themselves and, besides,
  the largest part that one device has of a parameter, twice: one is read while
  the other is placed.

  Args:
    folder: to read.
    family: its table.
    lines: of that table, for the model's settings.
    abstract: params as shapes with shardings and dtypes.
    suffixes: their dims.
    progress: shows that it goes on.
    new: beginnings of paths of params that the folder may be without; so is
      the result.
  """
  shapes = {path: x for path, x in trees.paths(abstract)}
  letters = {path: suffix for path, suffix in trees.paths(suffixes)}
  sizes = lines_lib.sizes(shapes, letters)
  found = _named(folder, family, lines)
  have = [line for line in lines if _first(line, sizes) in found]
  lines = [
    line for line in lines if line in have or not line.path.startswith(new)
  ]
  check(folder, family, lines, found, sizes, shapes, new)
  out: dict[str, Any] = {}
  staging = _Staging(), _Staging()
  for line in progress(lines, total=len(lines), label="reading weights"):
    leaf = shapes[line.path]
    suffix, its = letters[line.path], sizes[line.stack]
    read = _reader(folder, found, line, suffix, its, leaf.dtype)
    trees.put(out, line.path, _placed(leaf, read, staging))
  return out


def check(
  folder: Folder,
  family: Family,
  lines: Sequence[Line],
  found: Mapping[str, Tensor],
  sizes: Mapping[str, Sizes],
  shapes: Mapping[str, Any],
  new: tuple[str, ...] = (),
) -> None:
  """ValueError unless every tensor has one use and every parameter one tensor.

  Args:
    folder: for errors.
    family: says which tensors are no weights.
    lines: of its table.
    found: all tensors of the folder.
    sizes: of each stack, letter -> size.
    shapes: our parameters, by path.
    new: as for `params`.
  """
  left, given = dict(found), folder.given
  unread = set(shapes) - {line.path for line in lines}
  for line in lines:
    if line.path not in shapes:
      raise ValueError(
        f"{given}: has {_first(line, sizes)}, for which the model has no place"
      )
    wanted = line.shape(sizes[line.stack])
    for _, name in line.names(sizes[line.stack]):
      if name not in found:
        raise ValueError(f"{given}: {name} is missing")
      if found[name].shape != wanted:
        raise ValueError(
          f"{given}: {name} is {list(found[name].shape)}, and by its"
          f" config.json {list(wanted)}"
        )
      left.pop(name, None)
  for name in left:
    if not name.endswith(family.extra):
      original = dict(family.copies).get(name)
      if original and _is_copy(folder, found, name, original, lines):
        continue
      raise ValueError(f"{given}: {name} is a tensor that nothing reads")
  untold = sorted(path for path in unread if not path.startswith(new))
  if untold:
    raise ValueError(f"{given}: nothing says {untold[0]}")


def _is_copy(
  folder: Folder,
  found: Mapping[str, Tensor],
  name: str,
  path: str,
  lines: Sequence[Line],
) -> bool:
  """Whether a tensor is that of one of our parameters again, alike."""
  tables = [line.name for line in lines if line.path == path]
  if not tables or found[name].shape != found[tables[0]].shape:
    return False
  height = found[name].shape[0]
  for start in range(0, height, 4096):
    rows = [slice(start, min(start + 4096, height))]
    one, two = (folder.read(found[n], rows) for n in (name, tables[0]))
    if not np.array_equal(one, two):
      return False
  return True


def _named(
  folder: Folder, family: Family, lines: Sequence[Line]
) -> dict[str, Tensor]:
  """The tensors, by the names that they have in a model with a head."""
  found, prefix = {}, heads.root(family, folder.architecture)
  for name, tensor in folder.tensors().items():
    for old, new in family.renamed:
      name = new.join(name.rsplit(old, 1)) if name.endswith(old) else name
    found[name] = tensor
  bare = not any(name.startswith(prefix) for name in found)
  others = {line.name for line in lines if not line.name.startswith(prefix)}
  if not bare:
    return found
  return {n if n in others else prefix + n: t for n, t in found.items()}


def _first(line: Line, sizes: Mapping[str, Sizes]) -> str:
  return next(line.names(sizes[line.stack]))[1]


class _Staging:
  """Memory that parts of parameters are read into, used again and again."""

  def __init__(self) -> None:
    self._bytes = np.empty(0, np.uint8)

  def room(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array there; those that were given before are lost."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > self._bytes.size:
      self._bytes = np.empty(0, np.uint8)  # not both at once
      self._bytes = np.empty(size, np.uint8)
    return self._bytes[:size].view(dtype).reshape(shape)


def _reader(
  folder: Folder,
  found: Mapping[str, Tensor],
  line: Line,
  suffix: str,
  sizes: Sizes,
  dtype: Any,
) -> Callable[[tuple[slice, ...], _Staging], np.ndarray]:
  """Slices of a parameter -> its values there, in some memory."""

  def read(index: tuple[slice, ...], staging: _Staging) -> np.ndarray:
    cut = {
      letter: slice(*part.indices(sizes[letter])[:2])
      for letter, part in zip(suffix, index, strict=True)
    }
    # It lies in memory as theirs do: placing it turns it, sooner than numpy.
    counted = line.counted
    order = counted + "".join(line.mine())
    out = staging.room([cut[c].stop - cut[c].start for c in order], dtype)
    out = out.transpose([order.index(c) for c in suffix])
    if out.flags.c_contiguous:  # JAX may keep what it need not turn
      out = np.empty(out.shape, dtype)
    if line.first:
      out[...] = 1
    wanted, _ = line.where(sizes, cut)

    def put(job: tuple[tuple[int, ...], str]) -> None:
      place, name = job
      tensor = folder.read(found[name], wanted)
      here = out[place]
      bits = np.dtype(f"u{here.dtype.itemsize}")
      if tensor.dtype == here.dtype:  # numpy copies whole numbers sooner
        tensor, here = tensor.view(bits), here.view(bits)
      here[...] = lines_lib.ours(line, suffix, sizes, cut, tensor)
      infinite = np.array(np.inf, dtype).view(bits)  # all bits of the exponent
      if ((here.view(bits) & infinite) == infinite).any():
        raise ValueError(
          f"{folder.given}: {name} has numbers that are not finite (NaN or"
          f" infinity, or too large for {np.dtype(dtype)})"
        )

    jobs = []
    for at, name in line.names(sizes):
      pairs = list(zip(counted, at, strict=True))
      if all(cut[c].start <= a.start < cut[c].stop for c, a in pairs):
        jobs.append((tuple(a.start - cut[c].start for c, a in pairs), name))
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      list(pool.map(put, jobs))
    return out

  return read


def _placed(
  leaf: Any,
  read: Callable[[tuple[slice, ...], _Staging], np.ndarray],
  staging: Sequence[_Staging],
) -> jax.Array:
  """A parameter, read by each device of this process for itself.

  One part is read while the one before is placed.
  """

  def place(part: np.ndarray, devices: Sequence[Any]) -> list[jax.Array]:
    placed = [jax.device_put(part, device) for device in devices]
    return [x.block_until_ready() for x in placed]

  where = leaf.sharding.addressable_devices_indices_map(leaf.shape)
  together = _alike_together(where.items())
  parts: list[futures.Future] = []
  with futures.ThreadPoolExecutor(1) as placer:
    for i, (index, devices) in enumerate(together):
      for earlier in parts[:-1]:  # whose memory is used again
        earlier.result()
      part = read(index, staging[i % len(staging)])
      parts.append(placer.submit(place, part, devices))
  placed = [x for part in parts for x in part.result()]
  return jax.make_array_from_single_device_arrays(
    leaf.shape, leaf.sharding, placed
  )


def _alike_together(items: Iterable[tuple]) -> list[tuple[Any, list]]:
  """Each part, and the devices that hold it."""
  key = lambda its: [s.indices(2**62) for s in its[1]]
  out = []
  for _, group in itertools.groupby(sorted(items, key=key), key):
    its = list(group)
    out.append((its[0][1], [device for device, _ in its]))
  return out
