"""Attention of blocks of queries to blocks of keys, wherever both stand.

Where a row is cut over devices, none knows when it is compiled which places it
will hold: here a block brings its place and its documents with it, sums over
keys are kept open (online softmax, arXiv:2205.14135, algorithm 1), and blocks
that cannot meet cost nothing.

Dimension key: I blocks of queries; J blocks of keys; B sequences; K key/value
heads; G query heads per key/value head; T queries of a block; S keys of a
block; H head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.ops.masks import EVERYONE


class Queries(NamedTuple):
  """Blocks of scaled queries, the place of each one's first, documents."""

  x_IBKGTH: jax.Array
  at_I: jax.Array
  segment_IBT: jax.Array | None


class Keys(NamedTuple):
  """Blocks of keys and values, the place of each one's first, documents."""

  k_JBKSH: jax.Array
  v_JBKSH: jax.Array
  at_J: jax.Array
  segment_JBS: jax.Array | None


class Sums(NamedTuple):
  """Of each query after some keys: values, largest logit, sum above it."""

  o_IBKGTH: jax.Array
  top_IBKGT1: jax.Array
  sum_IBKGT1: jax.Array


class Back(NamedTuple):
  """Of each query, what its gradient needs: the output's, and two sums."""

  g_IBKGTH: jax.Array
  logz_IBKGT1: jax.Array
  mean_IBKGT1: jax.Array


def nothing(queries: Queries) -> Sums:
  """The sums over no key."""
  x = queries.x_IBKGTH
  wide = jnp.promote_types(x.dtype, jnp.float32)
  empty = jnp.zeros((*x.shape[:-1], 1), wide)
  return Sums(jnp.zeros(x.shape, wide), empty - jnp.inf, empty)


def add(
  sums: Sums, queries: Queries, keys: Keys, window: int | None = None
) -> Sums:
  """The sums, with those of all queries over these keys."""

  def of_query(_: None, part: tuple[Sums, Queries]) -> tuple[None, Sums]:
    sums, q = part

    def of_key(sums: Sums, k: Keys) -> tuple[Sums, None]:
      met = _meet(q, k, window)
      return jax.lax.cond(met, _add, _skip, sums, q, k), None

    def _add(sums: Sums, q: Queries, k: Keys) -> Sums:
      o_BKGTH, top_BKGT1, sum_BKGT1 = sums
      l_BKGTS = jnp.where(_seen(q, k, window), _logits(q[0], k[0]), -jnp.inf)
      new_BKGT1 = jnp.maximum(top_BKGT1, l_BKGTS.max(-1, keepdims=True))
      base_BKGT1 = jnp.where(new_BKGT1 == -jnp.inf, 0, new_BKGT1)
      e_BKGTS = jnp.exp(l_BKGTS - base_BKGT1)
      shrink_BKGT1 = jnp.exp(top_BKGT1 - base_BKGT1)
      return Sums(
        o_BKGTH * shrink_BKGT1 + _values(e_BKGTS, k[1], o_BKGTH.dtype),
        new_BKGT1,
        sum_BKGT1 * shrink_BKGT1 + e_BKGTS.sum(-1, keepdims=True),
      )

    return None, jax.lax.scan(of_key, sums, keys)[0]

  return jax.lax.scan(of_query, None, (sums, queries))[1]


def gradients(
  found: tuple[jax.Array, ...],
  queries: Queries,
  keys: Keys,
  back: Back,
  window: int | None = None,
) -> tuple[jax.Array, ...]:
  """Gradients of queries, keys and values, with what these keys add to them.

  Probabilities are made again (arXiv:2205.14135, algorithm 4).
  """
  dq_IBKGTH, dk_JBKSH, dv_JBKSH = found

  def of_key(dq_IBKGTH: jax.Array, part: tuple) -> tuple:
    k, dkv = part[0], part[1:]

    def of_query(dkv: tuple, part: tuple) -> tuple:
      q, back, dq_BKGTH = part
      dq_BKGTH, *new = jax.lax.cond(
        _meet(q, k, window), _add, _skip, (dq_BKGTH, *dkv), q, k, back
      )
      return tuple(new), dq_BKGTH

    def _add(found: tuple, q: Queries, k: Keys, back: Back) -> tuple:
      g_BKGTH, logz_BKGT1, mean_BKGT1 = back
      dq_BKGTH, dk_BKSH, dv_BKSH = found
      p_BKGTS = jnp.exp(_logits(q[0], k[0]) - logz_BKGT1)
      p_BKGTS = jnp.where(_seen(q, k, window), p_BKGTS, 0)
      dl_BKGTS = p_BKGTS * (_logits(g_BKGTH, k[1]) - mean_BKGT1)
      return (
        dq_BKGTH + _values(dl_BKGTS, k[0], dq_BKGTH.dtype),
        dk_BKSH + _by_key(dl_BKGTS, q[0], dk_BKSH.dtype),
        dv_BKSH + _by_key(p_BKGTS, g_BKGTH, dv_BKSH.dtype),
      )

    dkv, dq_IBKGTH = jax.lax.scan(of_query, dkv, (queries, back, dq_IBKGTH))
    return dq_IBKGTH, dkv

  dq_IBKGTH, (dk_JBKSH, dv_JBKSH) = jax.lax.scan(
    of_key, dq_IBKGTH, (keys, dk_JBKSH, dv_JBKSH)
  )
  return dq_IBKGTH, dk_JBKSH, dv_JBKSH


def _skip(found: tuple, *_: tuple) -> tuple:
  return found


def _meet(q: Queries, k: Keys, window: int | None) -> jax.Array:
  """Whether any of these queries may see any of these keys."""
  T, S = q[0].shape[-2], k[0].shape[-2]
  met = q[1] + T - 1 >= k[2]
  return met if window is None else met & (q[1] - k[2] - S + 1 < window)


def _seen(q: Queries, k: Keys, window: int | None) -> jax.Array:
  """[T, S], or [B, 1, 1, T, S] where rows hold several documents."""
  T, S = q[0].shape[-2], k[0].shape[-2]
  far_TS = q[1] - k[2] + jnp.arange(T)[:, None] - jnp.arange(S)[None]
  seen_TS = far_TS >= 0 if window is None else (far_TS >= 0) & (far_TS < window)
  if q[2] is None or k[3] is None:
    return seen_TS
  key_B1S = k[3][:, None]
  near_BTS = (q[2][:, :, None] == key_B1S) | (key_B1S == EVERYONE)
  return (seen_TS & near_BTS)[:, None, None]


def _logits(x_BKGTH: jax.Array, y_BKSH: jax.Array) -> jax.Array:
  wide = jnp.promote_types(x_BKGTH.dtype, jnp.float32)
  return jnp.einsum(
    "BKGTH,BKSH->BKGTS", x_BKGTH, y_BKSH, preferred_element_type=wide
  )


def _values(p_BKGTS: jax.Array, x_BKSH: jax.Array, wide: jnp.dtype):
  return jnp.einsum(
    "BKGTS,BKSH->BKGTH",
    p_BKGTS.astype(x_BKSH.dtype),
    x_BKSH,
    preferred_element_type=wide,
  )


def _by_key(p_BKGTS: jax.Array, x_BKGTH: jax.Array, wide: jnp.dtype):
  return jnp.einsum(
    "BKGTS,BKGTH->BKSH",
    p_BKGTS.astype(x_BKGTH.dtype),
    x_BKGTH,
    preferred_element_type=wide,
  )
