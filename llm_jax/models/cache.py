"""Keys and values already computed, for decoding a token at a time.

Dimension key: L layers; B sequences; S slots; K key/value heads; H head width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.models.config import TransformerConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Slots are filled in order, the same slot for every row.

  `position_BS` and `segment_BS` say what a slot holds; segment 0 is an empty
  slot or padding, and is never seen by a token of segment 1.
  """

  key_LBSKH: jax.Array
  value_LBSKH: jax.Array
  position_BS: jax.Array
  segment_BS: jax.Array
  length: jax.Array  # i32[], slots in use


def empty(config: TransformerConfig, batch_size: int, slots: int) -> Cache:
  """A cache with room for `slots` tokens a row."""
  c = config
  shape = (c.num_layers, batch_size, slots, c.K, c.H)
  return Cache(
    key_LBSKH=jnp.zeros(shape, c.dtype),
    value_LBSKH=jnp.zeros(shape, c.dtype),
    position_BS=jnp.zeros((batch_size, slots), jnp.int32),
    segment_BS=jnp.zeros((batch_size, slots), jnp.int32),
    length=jnp.zeros((), jnp.int32),
  )


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
  cache: Cache, layer: jax.Array, key_BTKH: jax.Array, value_BTKH: jax.Array
) -> tuple[Cache, jax.Array, jax.Array]:
  """Puts one layer's new keys and values in place, and returns all of them."""
  zero, layer = jnp.zeros((), jnp.int32), layer.astype(jnp.int32)
  at = (layer, zero, cache.length, zero, zero)

  def put(whole: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    whole = jax.lax.dynamic_update_slice(
      whole, new[None].astype(whole.dtype), at
    )
    return whole, jax.lax.dynamic_index_in_dim(whole, layer, 0, keepdims=False)

  keys, key_BSKH = put(cache.key_LBSKH, key_BTKH)
  values, value_BSKH = put(cache.value_LBSKH, value_BTKH)
  new = dataclasses.replace(cache, key_LBSKH=keys, value_LBSKH=values)
  return new, key_BSKH, value_BSKH


def advance(cache: Cache, tokens: int) -> Cache:
  """The cache with `tokens` more slots in use."""
  return dataclasses.replace(cache, length=cache.length + tokens)


# The dim of each array that rows lie on; the length is of all rows.
OF_ROWS: Any = Cache(1, 1, 0, 0, None)  # type: ignore[arg-type]


def with_row(cache: Cache) -> Cache:
  """One row's part of a cache, as a cache of one row."""
  return jax.tree.map(
    lambda dim, x: x if dim is None else jnp.expand_dims(x, dim),
    OF_ROWS,
    cache,
    is_leaf=lambda x: x is None,
  )


def repeated(cache: Cache, times: int) -> Cache:
  """Each row `times` times, one after the other."""
  suffixes: Any = Cache("LBSKH", "LBSKH", "BS", "BS", None)  # type: ignore[arg-type]

  def repeat(dim: int | None, suffix: str, x: jax.Array) -> jax.Array:
    if dim is None:
      return x
    return axes.constrain(jnp.repeat(x, times, dim), suffix)

  return jax.tree.map(
    repeat, OF_ROWS, suffixes, cache, is_leaf=lambda x: x is None
  )


def without_row(cache: Cache) -> Cache:
  """The inverse of `with_row`."""
  return jax.tree.map(
    lambda dim, x: x if dim is None else x.squeeze(dim),
    OF_ROWS,
    cache,
    is_leaf=lambda x: x is None,
  )
