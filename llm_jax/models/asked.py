"""Scores of positions in chunks, on each device those of its own.

Where only some are asked for, at the cost of those. The head is gathered once,
and its gradients are summed over devices once, not at each chunk.

Dimension key: S groups, as many as devices that rows and positions are cut
over; M positions of a group; P like M, padded to whole chunks; C chunk; D
residual.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes

# (x_SCD, weights, target_SC, letters of S and C) -> a tree of numbers [S, C]
Score = Callable[[jax.Array, Any, jax.Array, str], Any]


def scores(
  score: Score,
  x_BTD: jax.Array,
  weights: Any,
  target_BT: jax.Array,
  asked_BT: jax.Array,
  groups: tuple[int, int],
  chunk: int,
) -> Any:
  """What `score` says of the positions asked for, and 0 of all others.

  Those asked for are taken chunk by chunk, until there are no more: how many
  there are is known only when it runs. No position leaves its group.

  Args:
    score: of positions, each by itself.
    x_BTD: activations.
    weights: what `score` reads of the model.
    target_BT: tokens to score.
    asked_BT: which positions are wanted.
    groups: into how many B and T are cut; S is their product.
    chunk: C.
  """
  flat, unflat, letter = _grouping(target_BT.shape, groups)
  M = target_BT.size // math.prod(groups)
  asked_SM = flat(asked_BT)
  count_S1 = asked_SM.sum(1, keepdims=True)
  # The order has those asked for first; `place` is its inverse.
  order_SM = jnp.argsort(~asked_SM, axis=1, stable=True)
  place_SM = jnp.where(
    asked_SM,
    jnp.cumsum(asked_SM, 1) - 1,
    count_S1 + jnp.cumsum(~asked_SM, 1) - 1,
  )
  order_SP = jnp.pad(order_SM, [(0, 0), (0, -M % chunk)])
  num_chunks = -(-count_S1.max() // chunk)
  found = _chunks(
    score,
    letter,
    chunk,
    flat(x_BTD),
    weights,
    flat(target_BT),
    order_SP,
    place_SM,
    num_chunks,
  )

  def back(a_SP: jax.Array) -> jax.Array:
    a_SM = jnp.take_along_axis(a_SP, place_SM, 1)
    return unflat(jnp.where(asked_SM, a_SM, 0))

  return jax.tree.map(back, found)


def every(
  score: Score,
  x_BTD: jax.Array,
  weights: Any,
  target_BT: jax.Array,
  groups: tuple[int, int],
  chunk: int,
) -> Any:
  """What `score` says of all positions; see `scores`."""
  flat, unflat, letter = _grouping(target_BT.shape, groups)
  M = target_BT.size // math.prod(groups)
  chunk = -(-M // -(-M // chunk))  # as many, and less padding
  pad = lambda a: jnp.pad(
    a, [(0, 0), (0, -M % chunk)] + [(0, 0)] * (a.ndim - 2)
  )
  x_SPD, target_SP = pad(flat(x_BTD)), pad(flat(target_BT))
  found = _chunks(
    score, letter, chunk, x_SPD, weights, target_SP, None, None, None
  )
  return jax.tree.map(lambda a_SP: unflat(a_SP[:, :M]), found)


def _grouping(shape: tuple[int, ...], groups: tuple[int, int]) -> tuple:
  """[B, T, ...] -> [S, M, ...], back for numbers, and the letter of S."""
  (B, T), (rows, parts) = shape, groups
  letter = "B" if parts == 1 else "U"

  def flat(a: jax.Array) -> jax.Array:
    a = a.reshape(rows, B // rows, parts, T // parts, *a.shape[2:])
    a = a.swapaxes(1, 2).reshape(rows * parts, -1, *a.shape[4:])
    return axes.constrain(a, letter + "_" * (a.ndim - 1))

  def unflat(a_SM: jax.Array) -> jax.Array:
    a = a_SM.reshape(rows, parts, B // rows, T // parts)
    return a.swapaxes(1, 2).reshape(B, T)

  return flat, unflat, letter


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chunks(
  score: Score,
  letter: str,
  chunk: int,
  x_SMD: jax.Array,
  weights: Any,
  target_SM: jax.Array,
  order_SP: jax.Array | None,
  place_SM: jax.Array | None,
  num_chunks: jax.Array | None,
) -> Any:
  """Scores [S, P] in an order, of its first chunks; the rest is 0.

  Without an order P is M, and all of them are taken as they are.
  """
  del place_SM
  weights, turns = _gathered(weights), _turns(num_chunks, target_SM, chunk)
  shape_SP = (target_SM if order_SP is None else order_SP).shape

  def of_chunk(x_SCD: jax.Array, weights: Any, target_SC: jax.Array) -> Any:
    return score(x_SCD, weights, target_SC, f"{letter}_")

  def take(i: Any) -> tuple:
    return _take(i * chunk, chunk, order_SP, x_SMD, target_SM)

  def add(i: Any, found: Any) -> Any:
    x_SCD, target_SC = take(i)
    new = of_chunk(x_SCD, weights, target_SC)
    return jax.tree.map(lambda a, b: _put(a, b, i * chunk), found, new)

  x_SCD, target_SC = jax.eval_shape(take, 0)
  shapes = jax.eval_shape(of_chunk, x_SCD, weights, target_SC)
  start = jax.tree.map(lambda a: jnp.zeros(shape_SP, a.dtype), shapes)
  return jax.lax.fori_loop(0, turns, add, start)


def _forward(
  score: Score, letter: str, chunk: int, *given: Any
) -> tuple[Any, tuple]:
  return _chunks(score, letter, chunk, *given), given


def _backward(
  score: Score, letter: str, chunk: int, given: tuple, g_SP: Any
) -> tuple:
  """Scores of each chunk are made again."""
  x_SMD, weights, target_SM, order_SP, place_SM, num_chunks = given
  weights, turns = _gathered(weights), _turns(num_chunks, target_SM, chunk)
  shape_SP = (target_SM if order_SP is None else order_SP).shape

  def add(i: Any, sums: tuple) -> tuple:
    dx_SPD, dweights = sums
    at = i * chunk
    x_SCD, target_SC = _take(at, chunk, order_SP, x_SMD, target_SM)
    cut = lambda a: jax.lax.dynamic_slice_in_dim(a, at, chunk, 1)
    dx_SCD, new = each(x_SCD, target_SC, jax.tree.map(cut, g_SP))
    total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), dweights, new)
    return _put(dx_SPD, dx_SCD, at), total

  def one(x_CD: jax.Array, target_C: jax.Array, g_C: Any) -> tuple:
    alone = lambda x, w: score(x[None], w, target_C[None], "__")
    _, pull = jax.vjp(alone, x_CD, weights)
    return pull(jax.tree.map(lambda a: a[None], g_C))

  # By group, so that devices add theirs up once and not at each chunk.
  groups, wide = len(x_SMD), lambda a: jnp.promote_types(a.dtype, jnp.float32)
  each = jax.vmap(one, spmd_axis_name=axes.KEY[letter].activation)
  if groups == 1:
    first = lambda tree: jax.tree.map(lambda a: a[0], tree)
    each = lambda *a: jax.tree.map(lambda x: x[None], one(*first(a)))
  start = (
    jnp.zeros((*shape_SP, x_SMD.shape[2]), x_SMD.dtype),
    jax.tree.map(lambda a: jnp.zeros((groups, *a.shape), wide(a)), weights),
  )
  dx_SMD, dweights = jax.lax.fori_loop(0, turns, add, start)
  if place_SM is not None:
    dx_SMD = jnp.take_along_axis(dx_SMD, place_SM[..., None], 1)
  whole = lambda a, w: a.sum(0).astype(w.dtype)
  dweights = jax.tree.map(whole, dweights, weights)
  return dx_SMD, dweights, None, None, None, None


_chunks.defvjp(_forward, _backward)


def _gathered(weights: Any) -> Any:
  """The head as every chunk reads it: gathered before the loop."""
  kernel_DV, *rest = weights
  return axes.constrain(kernel_DV, "DV"), *rest


def _turns(num_chunks: Any, target_SM: jax.Array, chunk: int) -> Any:
  """Of the loop over chunks; a plain number where all are taken."""
  return target_SM.shape[1] // chunk if num_chunks is None else num_chunks


def _take(
  at: Any,
  chunk: int,
  order_SP: jax.Array | None,
  x_SMD: jax.Array,
  target_SM: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Activations and targets of a chunk of an order, or as they stand."""
  if order_SP is None:
    cut = lambda a: jax.lax.dynamic_slice_in_dim(a, at, chunk, 1)
    return cut(x_SMD), cut(target_SM)
  order_SC = jax.lax.dynamic_slice_in_dim(order_SP, at, chunk, 1)
  x_SCD = jnp.take_along_axis(x_SMD, order_SC[..., None], 1)
  return x_SCD, jnp.take_along_axis(target_SM, order_SC, 1)


def _put(a: jax.Array, part: jax.Array, at: Any) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(a, part, at, 1)
