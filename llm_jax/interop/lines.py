"""One line of a table: our parameter, their tensor, and how dims correspond.

`dims` spells their tensor in our letters, a word a dim, letters that are one
dim to them side by side: our kernel "LDNH", stored as q_proj.weight of shape
[N H, D], is "NH D". A tensor of several of ours says all of them, "NH+KH+KH D",
and `part` says which. A dim of theirs that we have not is "1". {layer} and
{expert} in a name count our letters L and M.
"""

from collections.abc import Iterator, Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

# What a name counts, and our letter for it; these come first in our suffixes.
COUNTED = {"L": "layer", "M": "expert"}
Slices = tuple[slice, ...]
Sizes = Mapping[str, int]
"""Letter -> size."""


class Line(NamedTuple):
  """Our path, their name, their dims in our letters.

  Layers before `first` have no such tensor: ours is 1 there, and unread.
  """

  path: str
  name: str
  dims: str
  part: int = 0
  first: int = 0

  @property
  def stack(self) -> str:
    """Of whose sizes it is; see `stack`."""
    return stack(self.path)

  @property
  def counted(self) -> str:
    """Our letters that their name counts."""
    return "".join(
      letter for letter, word in COUNTED.items() if f"{{{word}}}" in self.name
    )

  def names(self, sizes: Sizes) -> Iterator[tuple[Slices, str]]:
    """Yields (where in our parameter, their name) of every tensor."""
    counted = self.counted
    for at in itertools.product(*(range(sizes[c]) for c in counted)):
      if counted.startswith("L") and at[0] < self.first:
        continue
      words = {COUNTED[c]: i for c, i in zip(counted, at, strict=True)}
      yield tuple(slice(i, i + 1) for i in at), self.name.format(**words)

  def shape(self, sizes: Sizes) -> tuple[int, ...]:
    """Of their tensor."""
    return tuple(
      sum(_size(letters, sizes) for letters in dim.split("+"))
      for dim in self._dims()
    )

  def mine(self) -> list[str]:
    """Our letters in each of their dims, of this line's part."""
    return [
      (dim.split("+") * (self.part + 1))[self.part if "+" in dim else 0]
      for dim in self._dims()
    ]

  def _dims(self) -> list[str]:
    return [dim.replace("1", "") for dim in self.dims.split()]

  def where(
    self, sizes: Sizes, cut: Mapping[str, slice]
  ) -> tuple[Slices, list[Slices]]:
    """Slices of their tensor that hold a part of ours, and slices of those.

    Args:
      sizes: letter -> size.
      cut: letter -> which part of it is wanted.

    Returns:
      Of each dim of theirs, what to read of it; and of that, its dims split
      into our letters, what to keep.
    """
    read, kept = [], []
    for dim, letters in zip(self._dims(), self.mine(), strict=True):
      parts = dim.split("+")
      before = parts[: self.part] if "+" in dim else []
      start = sum(_size(part, sizes) for part in before)
      first, inner = letters[:1], letters[1:]
      whole = {c: slice(0, sizes[c]) for c in letters}
      wanted = {c: cut.get(c, whole[c]) for c in letters}
      if all(wanted[c] == whole[c] for c in inner) and letters:
        step = _size(inner, sizes)  # one run of them
        at = wanted[first]
        read.append(slice(start + at.start * step, start + at.stop * step))
        kept.append(tuple(slice(None) for _ in letters))
      else:
        read.append(slice(start, start + _size(letters, sizes)))
        kept.append(tuple(wanted[c] for c in letters))
    return tuple(read), kept


def ours(
  line: Line,
  suffix: str,
  sizes: Sizes,
  cut: Mapping[str, slice],
  tensor: np.ndarray,
) -> np.ndarray:
  """What was read of their tensor, in our dims (those their name counts out).

  Args:
    line: of the table.
    suffix: of our parameter.
    sizes: letter -> size.
    cut: letter -> which part of it is wanted.
    tensor: their tensor, at the slices that `line.where` says.
  """
  letters = line.mine()
  _, kept = line.where(sizes, cut)
  split = []
  for i, (word, keep) in enumerate(zip(letters, kept, strict=True)):
    rest = _size(word[1:], sizes)
    split += [tensor.shape[i] // rest, *(sizes[c] for c in word[1:])][
      : len(keep)
    ]
  flat = "".join(letters)
  whole = tensor.reshape(split)[tuple(itertools.chain(*kept))]
  return whole.transpose([flat.index(c) for c in _own(line, suffix)])


def theirs(line: Line, suffix: str, param: np.ndarray) -> np.ndarray:
  """Our parameter (without what their name counts) in their dims."""
  own, letters = _own(line, suffix), line.mine()
  moved = param.transpose([own.index(c) for c in "".join(letters)])
  sizes = dict(zip(own, param.shape, strict=True))
  return moved.reshape([_size(word, sizes) for word in letters])


def _own(line: Line, suffix: str) -> str:
  """Letters of ours that are dims of their tensor."""
  return "".join(c for c in suffix if c not in line.counted)


def _size(letters: Sequence[str], sizes: Sizes) -> int:
  return math.prod(sizes[c] for c in letters)


def stack(path: str) -> str:
  """The stack of layers that a parameter is of; "" is the one with the head."""
  first, inner, _ = path.partition("/")
  return first if inner and first == "encoder" else ""


def sizes(
  shapes: Mapping[str, Any], letters: Mapping[str, str]
) -> dict[str, dict[str, int]]:
  """Stack -> letter -> size, which all parameters of the stack agree on.

  Args:
    shapes: path -> what has a shape.
    letters: path -> suffix.
  """
  out: dict[str, dict[str, int]] = {}
  for path, leaf in shapes.items():
    its = out.setdefault(stack(path), {})
    for letter, size in zip(letters[path], leaf.shape, strict=True):
      assert its.setdefault(letter, size) == size, (path, letter)
  return out
