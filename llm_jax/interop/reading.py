"""Tensors of a folder -> our parameters, all of them used, and just once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_jax import trees
from llm_jax.contracts import Progress
from llm_jax.interop import heads, placing
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.family import Family
from llm_jax.interop.folder import Folder, Tensor
from llm_jax.interop.lines import Line, Sizes
from llm_jax.interop.placing import Stacked


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

  Of the host's memory no more is used than the params themselves and the few
  tensors that are being read; see `placing`.

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
  wanted = [
    Stacked(line, shapes[line.path], letters[line.path], sizes[line.stack])
    for line in lines
  ]
  out: dict[str, Any] = {}
  for path, x in placing.place(folder, found, wanted, progress).items():
    trees.put(out, path, x)
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
  root, copies = heads.root(family, folder.architecture), dict(family.copies)
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
      own = name.startswith(root)
      own_name = family.prefix + name.removeprefix(root) if own else name
      original = copies.get(own_name)
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
