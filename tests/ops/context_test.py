"""Attention of rows cut over devices is attention of whole rows."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from llm_jax.ops import attention as ops
from llm_jax.ops import context, masks, pairs

EVERYONE = masks.EVERYONE


def furniture(T):
  """Queries, keys, values, what the output is weighed by; documents."""
  r = np.random.default_rng(0)
  draw = lambda n: r.normal(size=(2, T, n, 6))
  given = draw(4), draw(2), draw(2), draw(4)
  segment = np.sort(r.integers(1, 4, (2, T)), axis=1).astype(np.int32)
  segment[1, :2] = EVERYONE
  return given, segment


def both(attention, given):
  """The output and all gradients."""
  *given, g = given

  def run(q, k, v):
    out, pull = jax.vjp(attention, q, k, v)
    return out, *pull(g)

  return jax.jit(run)(*given)


@functools.cache
def whole(T, window, packed):
  given, segment = furniture(T)
  place = np.arange(T)
  mask = np.asarray(ops.causal_mask(T, window))
  if packed:
    places = np.broadcast_to(place, segment.shape)
    mask = mask & masks.attention_mask(segment, segment, places, places)
  with jax.enable_x64(True):
    return both(lambda q, k, v: ops.attention(q, k, v, mask), given)


def cut(T, size, way, window=None, packed=True):
  given, segment = furniture(T)
  mesh = jax.make_mesh(
    (size,), "c", axis_types=(AxisType.Auto,), devices=jax.devices()[:size]
  )

  def attention(q, k, v):
    f = lambda q, k, v, s: context.causal_attention(
      *(q, k, v, s if packed else None),
      window=window,
      axis="c",
      size=size,
      way=way,
    )
    return jax.shard_map(
      f,
      mesh=mesh,
      in_specs=P(None, "c"),
      out_specs=P(None, "c"),
      check_vma=False,
    )(q, k, v, jnp.asarray(segment))

  with jax.enable_x64(True):
    return both(attention, given)


def difference(a, b):
  pairs = zip(map(np.asarray, a), map(np.asarray, b), strict=True)
  return max(np.abs(x - y).max() for x, y in pairs)


@pytest.mark.parametrize("way", ["gather", "ring"])
@pytest.mark.parametrize(
  ("T", "size", "window", "packed"),
  [
    (16, 2, None, True),
    (16, 4, 5, True),
    (32, 8, None, False),
    (15, 3, None, True),  # an odd number each: not dealt in halves
    (16, 8, 9, False),
  ],
)
def test_cut_rows_are_whole_rows(T, size, window, packed, way, monkeypatch):
  monkeypatch.setattr(context, "QUERIES", 2)
  monkeypatch.setattr(context, "KEYS", 4)
  got = cut(T, size, way, window, packed)
  assert difference(got, whole(T, window, packed)) < 1e-13


@pytest.mark.parametrize("size", [2, 4, 8])
def test_every_device_does_as_much(size):
  """Of 2 n parts of queries and of keys, how many meet on each device."""

  def work(dealt):
    of_rank = lambda rank: context._places(2, size, rank, dealt).tolist()
    mine = lambda rank: of_rank(rank) if dealt else [2 * rank, 2 * rank + 1]
    meet = lambda queries: sum(q >= k for q in queries for k in range(2 * size))
    return [meet(mine(rank)) for rank in range(size)]

  assert set(work(True)) == {2 * size + 1}
  assert len(set(work(False))) == size  # not dealt: the last has most
  assert sum(work(True)) == sum(work(False))


def test_places_are_those_that_are_dealt():
  for size in (2, 3, 8):
    starts = [context._places(4, size, rank, True) for rank in range(size)]
    want = [np.asarray(at)[:, None] + np.arange(2) for at in starts]
    assert context.dealt(4 * size, size).tolist() == np.ravel(want).tolist()


def test_keys_beyond_the_window_are_not_passed_on():
  turns = lambda window: str(
    jax.make_jaxpr(lambda: cut(64, 8, "ring", window))()
  )
  assert "length=7" in turns(None) and "length=7" not in turns(9)
  assert "length=1" in turns(9)


def _left_behind(held, axis, size, by):
  """Keys travel, their documents stay."""
  moved = _pass_on(held, axis, size, by)
  if isinstance(held, pairs.Keys):
    return moved._replace(segment_JBS=held.segment_JBS)
  return moved


def _twice(sums, queries, keys, window):
  again = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), keys)
  return _add(sums, queries, again, window)


def _unscaled(sums, queries, keys, window):
  new = _add(pairs.nothing(queries), queries, keys, window)
  return pairs.Sums(
    sums[0] + new[0], jnp.maximum(sums[1], new[1]), sums[2] + new[2]
  )


_pass_on, _places = context._pass_on, context._places
_add = pairs.add
MUTANTS = {
  "documents that do not travel": (context, "_pass_on", _left_behind),
  "places that are a device's own": (
    context,
    "_places",
    lambda T, size, rank, deal: _places(T, size, 0 * rank, deal),
  ),
  "keys that do not travel": (context, "_pass_on", lambda held, *_: held),
  "gradients that do not go home": (
    context,
    "_pass_on",
    lambda held, axis, size, by: (
      held if by < 0 else _pass_on(held, axis, size, by)
    ),
  ),
  "a block that meets nothing it should": (
    pairs,
    "_meet",
    lambda q, k, window: q[1] > k[2],
  ),
  "a block counted twice": (pairs, "add", _twice),
  "sums of different scales, added up": (pairs, "add", _unscaled),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_mutant_is_caught(mutant, monkeypatch):
  monkeypatch.setattr(*MUTANTS[mutant])
  got = cut(16, 4, "ring")
  assert not difference(got, whole(16, None, True)) < 1e-3
