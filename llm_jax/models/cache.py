"""Keys and values already computed, for decoding a token at a time.

Dimension key: L layers; B sequences; S slots; K key/value heads; H head width.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models.config import TransformerConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Source:
  """Keys and values of what a decoder's encoder read; they do not change."""

  keys: tuple[jax.Array, ...]  # BKSH of each layer, or one BLKSH
  values: tuple[jax.Array, ...]
  segment_BS: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Slots are filled in order, the same slot for every row.

  `position_BS` and `segment_BS` say what a slot holds; segment 0 is an empty
  slot or padding, and is never seen by a token of segment 1. Heads come before
  slots, as products of a token with all keys read them. Where layers are no
  loop each has arrays of its own, so that none is cut out of another to be
  read; where they are, there is one of all layers.
  """

  keys: tuple[jax.Array, ...]  # BKSH of each layer, or one BLKSH
  values: tuple[jax.Array, ...]
  position_BS: jax.Array
  segment_BS: jax.Array
  length: jax.Array  # i32[], slots in use
  source: Source | None = None


def empty(config: TransformerConfig, batch_size: int, slots: int) -> Cache:
  """A cache with room for `slots` tokens a row."""
  return Cache(
    keys=_zeros(config, batch_size, slots),
    values=_zeros(config, batch_size, slots),
    position_BS=jnp.zeros((batch_size, slots), jnp.int32),
    segment_BS=jnp.zeros((batch_size, slots), jnp.int32),
    length=jnp.zeros((), jnp.int32),
  )


def with_source(
  config: TransformerConfig, cache: Cache, segment_BS: jax.Array
) -> Cache:
  """The cache with room for what a source's S positions are read as."""
  zeros = _zeros(config, *segment_BS.shape)
  return dataclasses.replace(cache, source=Source(zeros, zeros, segment_BS))


def _zeros(
  config: TransformerConfig, batch_size: int, slots: int
) -> tuple[jax.Array, ...]:
  """Keys or values of all layers."""
  c = config
  stacked = (c.num_layers,) if c.unroll else ()
  shape = (batch_size, *stacked, c.K, slots, c.H)
  parts = 1 if c.unroll else c.num_layers
  return tuple(jnp.zeros(shape, c.dtype) for _ in range(parts))


def note(cache: Cache, position_BT: jax.Array, segment_BT: jax.Array) -> Cache:
  """Writes down what the next T slots will hold; their keys come by layer."""
  at = (jnp.zeros((), jnp.int32), cache.length)

  def write(whole: jax.Array, new: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(whole, new.astype(whole.dtype), at)

  return dataclasses.replace(
    cache,
    position_BS=write(cache.position_BS, position_BT),
    segment_BS=write(cache.segment_BS, segment_BT),
  )


def store(
  cache: Cache,
  layer: int | jax.Array,
  key_BTKH: jax.Array,
  value_BTKH: jax.Array,
) -> tuple[Cache, jax.Array, jax.Array]:
  """Puts one layer's new keys and values in place, and returns all of them.

  The layer is a plain number where each has arrays of its own.
  """
  keys = _put(cache.keys, key_BTKH, layer, cache.length)
  values = _put(cache.values, value_BTKH, layer, cache.length)
  new = dataclasses.replace(cache, keys=keys, values=values)
  return new, _of_layer(keys, layer), _of_layer(values, layer)


def store_source(
  cache: Cache,
  layer: int | jax.Array,
  key_BSKH: jax.Array,
  value_BSKH: jax.Array,
) -> Cache:
  """Keeps one layer's keys and values of a source."""
  its, zero = cache.source, jnp.zeros((), jnp.int32)
  assert its is not None
  keys = _put(its.keys, key_BSKH, layer, zero)
  values = _put(its.values, value_BSKH, layer, zero)
  its = dataclasses.replace(its, keys=keys, values=values)
  return dataclasses.replace(cache, source=its)


def read_source(
  cache: Cache, layer: int | jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One layer's keys and values of a source, [B, S, K, H]."""
  its = cache.source
  assert its is not None
  return _of_layer(its.keys, layer), _of_layer(its.values, layer)


def _put(
  parts: tuple[jax.Array, ...],
  new_BTKH: jax.Array,
  layer: int | jax.Array,
  at: jax.Array,
) -> tuple[jax.Array, ...]:
  """One layer's new keys or values, in slots from `at` on."""
  zero = jnp.zeros((), jnp.int32)
  new_BKTH = new_BTKH.swapaxes(1, 2).astype(parts[0].dtype)
  if isinstance(layer, int):
    x_BKSH = jax.lax.dynamic_update_slice(
      parts[layer], new_BKTH, (zero, zero, at, zero)
    )
    return *parts[:layer], x_BKSH, *parts[layer + 1 :]
  number = layer.astype(jnp.int32)
  x_BLKSH = jax.lax.dynamic_update_slice(
    parts[0], new_BKTH[:, None], (zero, number, zero, at, zero)
  )
  return (x_BLKSH,)


def _of_layer(
  parts: tuple[jax.Array, ...], layer: int | jax.Array
) -> jax.Array:
  """One layer's keys or values, [B, S, K, H]."""
  if isinstance(layer, int):
    return parts[layer].swapaxes(1, 2)
  number = layer.astype(jnp.int32)
  x_BKSH = jax.lax.dynamic_index_in_dim(parts[0], number, 1, keepdims=False)
  return x_BKSH.swapaxes(1, 2)


def advance(cache: Cache, tokens: int) -> Cache:
  """The cache with `tokens` more slots in use."""
  return dataclasses.replace(cache, length=cache.length + tokens)


# The dim of each array that rows lie on; the length is of all rows.
OF_ROWS: Any = Cache(0, 0, 0, 0, None)  # type: ignore[arg-type]


def with_row(cache: Cache) -> Cache:
  """One row's part of a cache, as a cache of one row."""
  return _by_rows(cache, lambda x: x[None])


def without_row(cache: Cache) -> Cache:
  """The inverse of `with_row`."""
  return _by_rows(cache, lambda x: x[0])


def repeated(cache: Cache, times: int) -> Cache:
  """Each row `times` times, one after the other."""
  suffixes = {2: "BS", 4: "BKSH", 5: "BLKSH"}
  return _by_rows(
    cache,
    lambda x: axes.constrain(jnp.repeat(x, times, 0), suffixes[x.ndim]),
  )


def grown(cache: Cache, slots: int) -> Cache:
  """The cache with room for `slots` more tokens a row."""

  def grow(x: jax.Array) -> jax.Array:
    pads = [(0, 0)] * x.ndim
    pads[1 if x.ndim == 2 else -2] = (0, slots)
    return jnp.pad(x, pads)

  return _by_rows(cache, grow)


def _by_rows(cache: Cache, change: Callable[[jax.Array], jax.Array]) -> Cache:
  """The cache with whatever has rows changed."""
  return jax.tree.map(lambda x: change(x) if x.ndim else x, cache)
