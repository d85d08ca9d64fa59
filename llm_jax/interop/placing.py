"""Tensors of files -> arrays on devices, each file read once, from its start.

A parameter of ours stacks what names of theirs count, layers and experts. It
begins empty, and what a tensor says is written into it on its devices. Besides
the parameters a host holds the few tensors that are being read.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
import contextlib
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from llm_jax.contracts import Progress
from llm_jax.interop import lines as lines_lib
from llm_jax.interop.folder import Folder, Tensor
from llm_jax.interop.lines import COUNTED, Line, Sizes

_THREADS = 4  # that read, check and place


class Stacked(NamedTuple):
  """A parameter that is to be read.

  Args:
    line: of the table.
    leaf: its shape, dtype and sharding.
    suffix: its dims.
    sizes: of its stack.
  """

  line: Line
  leaf: Any
  suffix: str
  sizes: Sizes

  @property
  def counts(self) -> tuple[int, ...]:
    """In how many parts devices hold each dim that the name counts."""
    part = self.leaf.sharding.shard_shape(self.leaf.shape)
    dims = zip(self.leaf.shape, part, strict=True)
    return tuple(n // k for n, k in dims)[: len(self.line.counted)]

  def name(self, at: Sequence[int]) -> str:
    """Of the tensor that is there; "" where there is none."""
    counted = self.line.counted
    if counted.startswith("L") and at[0] < self.line.first:
      return ""
    words = {COUNTED[c]: i for c, i in zip(counted, at, strict=True)}
    return self.line.name.format(**words)


class _Piece(NamedTuple):
  """One tensor in each part of a parameter, at one place there."""

  stacked: Stacked
  at: tuple[int, ...]
  names: tuple[str, ...]  # of each part's tensor, "" where there is none

  @property
  def shape(self) -> tuple[int, ...]:
    return (*self.stacked.counts, *self.stacked.leaf.shape[len(self.at) :])


def place(
  folder: Folder,
  found: Mapping[str, Tensor],
  all_stacked: Sequence[Stacked],
  progress: Progress,
) -> dict[str, jax.Array]:
  """Path -> parameter; each process reads only what its own devices hold.

  Args:
    folder: to read.
    found: all of its tensors, in the order in which they lie in its files.
    all_stacked: what is to be read.
    progress: shows that it goes on.

  Raises:
    ValueError: a tensor has numbers that are not finite.
  """
  order = {name: i for i, name in enumerate(found)}
  pieces = [piece for stacked in all_stacked for piece in _pieces(stacked)]
  pieces.sort(key=lambda piece: order[piece.names[-1]])
  out = {
    stacked.line.path: _begun(stacked.leaf, 1.0 if stacked.line.first else 0.0)
    for stacked in all_stacked
    if stacked.line.counted
  }
  writer = functools.cache(_writer)
  with (
    futures.ThreadPoolExecutor(_THREADS) as pool,
    contextlib.ExitStack() as at_last,
  ):
    # After an error or Ctrl-C nothing is waited for but what is being read.
    at_last.callback(pool.shutdown, wait=False, cancel_futures=True)
    read = functools.partial(_submit, pool, folder, found)
    for piece, parts in _ahead(progress, pieces, read):
      leaf, path = piece.stacked.leaf, piece.stacked.line.path
      x = jax.make_array_from_single_device_arrays(
        piece.shape, leaf.sharding, parts
      )
      if piece.at:
        write = writer(leaf.sharding, piece.stacked.counts)
        x = write(out.pop(path), x, piece.at)
      out[path] = x.block_until_ready()
  return out


def _pieces(stacked: Stacked) -> Iterator[_Piece]:
  part = stacked.leaf.sharding.shard_shape(stacked.leaf.shape)
  sizes = part[: len(stacked.line.counted)]
  for at in itertools.product(*map(range, sizes)):
    starts = zip(at, stacked.counts, sizes, strict=True)
    places = (range(i, n * size, size) for i, n, size in starts)
    names = tuple(map(stacked.name, itertools.product(*places)))
    if names[-1]:
      yield _Piece(stacked, at, names)


def _ahead(
  progress: Progress, pieces: Sequence[_Piece], read: Any
) -> Iterator[tuple[_Piece, list[jax.Array]]]:
  """Yields pieces with what was read of them, while the next ones are read."""
  todo, queue = iter(pieces), collections.deque[list[futures.Future]]()
  for piece in progress(pieces, total=len(pieces), label="reading weights"):
    while len(queue) < _THREADS:
      following = next(todo, None)
      if following is None:
        break
      queue.append(read(following))
    yield piece, [x for part in queue.popleft() for x in part.result()]


class _Part(NamedTuple):
  """A part of a parameter.

  Args:
    cut: our letter -> which part of it.
    wanted: which part of their tensor says it.
    devices: of this process, which hold it.
  """

  cut: dict[str, slice]
  wanted: tuple[slice, ...]
  devices: list[Any]


def _submit(
  pool: futures.Executor,
  folder: Folder,
  found: Mapping[str, Tensor],
  piece: _Piece,
) -> list[futures.Future]:
  """Reads a piece for this process: all that lies in the same rows at once."""
  line, leaf, suffix, sizes = piece.stacked
  where = leaf.sharding.addressable_devices_indices_map(leaf.shape)
  key = lambda its: [s.indices(2**62) for s in its[1]]
  rows: dict[Any, list[_Part]] = {}
  for _, group in itertools.groupby(sorted(where.items(), key=key), key):
    its = list(group)
    cut = {
      letter: slice(*part.indices(sizes[letter])[:2])
      for letter, part in zip(suffix, its[0][1], strict=True)
    }
    wanted, _ = line.where(sizes, cut)
    begins = [cut[c].start for c in line.counted]
    at = [a + b for a, b in zip(begins, piece.at, strict=True)]
    name = piece.stacked.name(at)
    part = _Part(cut, wanted, [device for device, _ in its])
    # A tensor that is a whole parameter is the largest: in parts.
    together = wanted[:1] if piece.at else wanted
    bounds = tuple((s.start, s.stop) for s in together)
    rows.setdefault((name, bounds), []).append(part)
  return [
    pool.submit(_read, folder, found, piece, name, parts)
    for (name, *_), parts in rows.items()
  ]


def _read(
  folder: Folder,
  found: Mapping[str, Tensor],
  piece: _Piece,
  name: str,
  parts: Sequence[_Part],
) -> list[jax.Array]:
  """Parts of a parameter that are in the same rows of a tensor, placed."""
  (line, leaf, suffix, sizes), at = piece.stacked, piece.at
  if not name:
    shape = leaf.sharding.shard_shape(leaf.shape)[len(at) :]
    ones = np.ones(((1,) * len(at)) + shape, leaf.dtype)
    return [jax.device_put(ones, d) for part in parts for d in part.devices]
  dims = list(zip(*(part.wanted for part in parts), strict=True))
  block = [
    slice(min(s.start for s in dim), max(s.stop for s in dim)) for dim in dims
  ]
  tensor = folder.read(found[name], block)
  kinds = {found[n].dtype if n else "" for n in piece.names}
  if tensor.itemsize >= leaf.dtype.itemsize or not at or len(kinds) > 1:
    tensor = tensor.astype(leaf.dtype, copy=False)  # else devices widen it
  if not _is_finite(tensor):
    raise ValueError(
      f"{folder.given}: {name} has numbers that are not finite (NaN or"
      f" infinity, or too large for {np.dtype(leaf.dtype)})"
    )
  out = []
  for cut, wanted, devices in parts:
    its = [
      slice(w.start - b.start, w.stop - b.start)
      for w, b in zip(wanted, block, strict=True)
    ]
    x = lines_lib.ours(line, suffix, sizes, cut, tensor[tuple(its)])
    # It lies in memory as theirs do: JAX turns it, sooner than numpy would.
    x = x[(None,) * len(at)]
    out += [jax.device_put(x, d).block_until_ready() for d in devices]
  return out


def _is_finite(x: np.ndarray) -> bool:
  """As numpy's isfinite, of all; by the bits, without another array."""
  size, infinite = x.dtype.itemsize, np.array([np.inf, -np.inf], x.dtype)
  return all(
    x.view(bits).max(initial=0) < limit
    for bits, limit in (
      (f"i{size}", infinite.view(f"i{size}")[0]),
      (f"u{size}", infinite.view(f"u{size}")[1]),
    )
  )


def _begun(leaf: Any, value: float) -> jax.Array:
  full = functools.partial(jnp.full, leaf.shape, value, leaf.dtype)
  return jax.jit(full, out_shardings=leaf.sharding)()


def _writer(sharding: Any, counts: tuple[int, ...]) -> Any:
  """A program that writes a piece into a parameter, in place.

  Args:
    sharding: of both.
    counts: as `Stacked.counts`.
  """

  def write(
    part: jax.Array, piece: jax.Array, at: tuple[int, ...]
  ) -> jax.Array:
    # As whole numbers: of bfloat16, XLA would make float32 on a CPU, of all.
    bits = jnp.dtype(f"uint{8 * part.dtype.itemsize}")
    start = [*at, *[0] * (part.ndim - len(at))]
    new = piece.astype(part.dtype).view(bits)
    old = part.view(bits)
    return jax.lax.dynamic_update_slice(old, new, start).view(part.dtype)

  run = write
  if set(counts) != {1}:  # each device in its own part
    parts = sharding.spec
    run = jax.shard_map(
      write,
      mesh=sharding.mesh,
      in_specs=(parts, parts, PartitionSpec()),
      out_specs=parts,
    )
  return jax.jit(run, donate_argnums=0, out_shardings=sharding)
