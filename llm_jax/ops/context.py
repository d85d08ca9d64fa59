"""Attention of rows whose positions are cut over devices.

To be called by each of them, in `jax.shard_map`, with its own positions. Keys
and values come either all at once ("gather") or from neighbour to neighbour, a
part at a time ("ring", arXiv:2310.01889), so that no device ever holds more of
them than its own and one other's.

Later positions see more keys. Without a window each device therefore takes one
part of a row's first half and the part as far from its end (arXiv:2407.21783,
section 3.3.2), and does as much as any other.

Dimension key: B sequences; T positions of a device; N query heads; K key/value
heads; G query heads per key/value head; H head width; I, J blocks of queries
and of keys.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.ops import pairs

Way = Literal["gather", "ring"]
QUERIES, KEYS = 128, 512  # of a block, at most


def causal_attention(
  q_BTNH: jax.Array,
  k_BTKH: jax.Array,
  v_BTKH: jax.Array,
  segment_BT: jax.Array | None = None,
  *,
  window: int | None = None,
  axis: str,
  size: int,
  way: Way,
) -> jax.Array:
  """`ops.attention.causal_attention` of whole rows, for this device's queries.

  Args:
    q_BTNH: queries of this device's T positions; it has the block of the row
      that its number along the axis says.
    k_BTKH: keys of the same positions.
    v_BTKH: values of the same positions.
    segment_BT: the document of each of these positions.
    window: how far a query sees, itself included.
    axis: of the mesh.
    size: devices along it.
    way: how the others' keys come.

  Returns:
    o_BTNH of this device's positions, in the dtype of the queries.
  """
  T, K = k_BTKH.shape[1:3]
  dealt = size > 1 and window is None and T % 2 == 0
  own_P = _places(T, size, jax.lax.axis_index(axis), dealt)
  move = lambda x: deal(x, axis, size) if dealt else x
  q_BTNH = move(q_BTNH * q_BTNH.shape[-1] ** -0.5)
  given = k_BTKH, v_BTKH, segment_BT
  segment_BT = jax.tree.map(move, segment_BT)
  if way == "ring":
    k_BSKH, v_BSKH, segment_BS = jax.tree.map(move, given)
    at_P = own_P
    steps = size if window is None else min(size, 1 + -(-(window - 1) // T))
  else:
    whole = lambda x: jax.lax.all_gather(x, axis, axis=1, tiled=True)
    k_BSKH, v_BSKH, segment_BS = jax.tree.map(whole, given)
    at_P, steps = jnp.zeros(1, jnp.int32), 1
  q_BTKGH = q_BTNH.reshape(*q_BTNH.shape[:2], K, -1, q_BTNH.shape[-1])
  queries = pairs.Queries(
    _cut(q_BTKGH, own_P, QUERIES, (0, 1, 3, 4, 2, 5)),
    _starts(own_P, T, QUERIES),
    _cut(segment_BT, own_P, QUERIES, (0, 1, 2)),
  )
  S = k_BSKH.shape[1]
  keys = pairs.Keys(
    _cut(k_BSKH, at_P, KEYS, (0, 1, 3, 2, 4)),
    _cut(v_BSKH, at_P, KEYS, (0, 1, 3, 2, 4)),
    _starts(at_P, S, KEYS),
    _cut(segment_BS, at_P, KEYS, (0, 1, 2)),
  )
  o_IBKGTH = _attention(axis, size, steps, window, queries, keys)
  o_BITKGH = o_IBKGTH.transpose(1, 0, 4, 2, 3, 5)
  o_BTNH = o_BITKGH.reshape(q_BTNH.shape)
  return undeal(o_BTNH, axis, size) if dealt else o_BTNH


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _attention(
  axis: str,
  size: int,
  steps: int,
  window: int | None,
  queries: pairs.Queries,
  keys: pairs.Keys,
) -> jax.Array:
  """Of all keys that are held, one after the other, in `steps` turns."""
  return _forward(axis, size, steps, window, queries, keys)[0]


def _forward(
  axis: str,
  size: int,
  steps: int,
  window: int | None,
  queries: pairs.Queries,
  keys: pairs.Keys,
) -> tuple:
  def turn(carry: tuple, _: None) -> tuple:
    sums, held = carry
    coming = _pass_on(held, axis, size, 1)  # while these are worked on
    return (pairs.add(sums, queries, held, window), coming), None

  carry = pairs.nothing(queries), keys
  if steps > 1:
    carry, _ = jax.lax.scan(turn, carry, None, length=steps - 1)
  sums = pairs.add(carry[0], queries, carry[1], window)
  o_IBKGTH = (sums.o_IBKGTH / sums.sum_IBKGT1).astype(queries.x_IBKGTH.dtype)
  logz_IBKGT1 = sums.top_IBKGT1 + jnp.log(sums.sum_IBKGT1)
  return o_IBKGTH, (queries, keys, o_IBKGTH, logz_IBKGT1)


def _backward(
  axis: str,
  size: int,
  steps: int,
  window: int | None,
  saved: tuple,
  g_IBKGTH: jax.Array,
) -> tuple:
  """Gradients of keys travel with them, and home at the end."""
  queries, keys, o_IBKGTH, logz_IBKGT1 = saved
  wide = logz_IBKGT1.dtype
  mean_IBKGT1 = (g_IBKGTH * o_IBKGTH).astype(wide).sum(-1, keepdims=True)
  back = pairs.Back(g_IBKGTH, logz_IBKGT1, mean_IBKGT1)

  def turn(carry: tuple, _: None) -> tuple:
    dq, *dkv, held = carry
    coming = _pass_on(held, axis, size, 1)
    dq, *dkv = pairs.gradients((dq, *dkv), queries, held, back, window)
    return (dq, *_pass_on(dkv, axis, size, 1), coming), None

  zero = lambda x: jnp.zeros(x.shape, wide)
  carry = zero(queries[0]), zero(keys[0]), zero(keys[1]), keys
  if steps > 1:
    carry, _ = jax.lax.scan(turn, carry, None, length=steps - 1)
  *found, held = carry
  dq, *dkv = pairs.gradients(tuple(found), queries, held, back, window)
  dk, dv = _pass_on(dkv, axis, size, 1 - steps) if steps > 1 else dkv
  of = lambda given, *found: (
    *(d.astype(x.dtype) for d, x in zip(found, given, strict=False)),
    *(None for _ in given[len(found) :]),
  )
  return pairs.Queries(*of(queries, dq)), pairs.Keys(*of(keys, dk, dv))


_attention.defvjp(_forward, _backward)


def _pass_on(held, axis: str, size: int, by: int):
  """Every device's to the one `by` further along the axis."""
  along = [(i, (i + by) % size) for i in range(size)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, along), held)


def _places(T: int, size: int, rank: Any, dealt: bool) -> jax.Array:
  """Where the parts that a device works on begin: one, or two halves."""
  if not dealt:
    return jnp.stack([rank * T])
  return jnp.stack([rank, 2 * size - 1 - rank]) * (T // 2)


def deal(x_BT: jax.Array, axis: str, size: int) -> jax.Array:
  """A device's two halves of a block -> parts r and 2 n - 1 - r of the row."""
  halves = jnp.split(x_BT, 2, axis=1)
  even, odd = (
    jax.lax.ppermute(half, axis, [(r, to[r]) for r in range(size)])
    for half, to in zip(halves, _seats(size), strict=True)
  )
  is_even = jax.lax.axis_index(axis) % 2 == 0
  first, last = jnp.where(is_even, even, odd), jnp.where(is_even, odd, even)
  return jnp.concatenate([first, last], axis=1)


def dealt(length: int, size: int) -> np.ndarray:
  """Places of a row, as devices one after the other have them once dealt."""
  parts = np.arange(length).reshape(2 * size, -1)
  whose = [part for r in range(size) for part in (r, 2 * size - 1 - r)]
  return parts[whose].reshape(-1)


def undeal(x_BT: jax.Array, axis: str, size: int) -> jax.Array:
  """The inverse of `deal`."""
  first, last = jnp.split(x_BT, 2, axis=1)
  is_even = jax.lax.axis_index(axis) % 2 == 0
  even, odd = jnp.where(is_even, first, last), jnp.where(is_even, last, first)
  halves = (
    jax.lax.ppermute(half, axis, [(to[r], r) for r in range(size)])
    for half, to in zip((even, odd), _seats(size), strict=True)
  )
  return jnp.concatenate(list(halves), axis=1)


def _seats(size: int) -> tuple[list[int], list[int]]:
  """Who works on each device's first half, and on its second.

  Part p of 2 n belongs to device p, or 2 n - 1 - p; device r has 2 r and
  2 r + 1. Those of even number are all first halves.
  """
  whose = [min(p, 2 * size - 1 - p) for p in range(2 * size)]
  return whose[::2], whose[1::2]


def _starts(at_P: jax.Array, length: int, most: int) -> jax.Array:
  """Places of the first positions of all blocks of parts that begin there."""
  part = length // len(at_P)
  return (at_P[:, None] + jnp.arange(0, part, _block(part, most))).reshape(-1)


def _cut(x_BT: Any, at_P: jax.Array, most: int, order: tuple[int, ...]) -> Any:
  """[B, T, ...] -> [I, B, ...] in an order of the dims of [I, B, T, ...]."""
  if x_BT is None:  # no documents
    return None
  B, T, *rest = x_BT.shape
  x_BIT = x_BT.reshape(B, -1, _block(T // len(at_P), most), *rest)
  return x_BIT.swapaxes(0, 1).transpose(order)


def _block(length: int, most: int) -> int:
  """The largest divisor that is no more than `most`; all, if none is near."""
  near = range(min(length, most), most // 4, -1)
  return next((size for size in near if length % size == 0), length)
