"""Attention in blocks is attention under the causal mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import attention as ops
from llm_jax.ops import masks


def _inputs(T: int, N: int, K: int, dtype=np.float64):
  r = np.random.default_rng(0)
  draw = lambda n: jnp.asarray(r.normal(size=(2, T, n, 3)), dtype)
  return draw(N), draw(K), draw(K), draw(N)


def _both(f, q, k, v, g):
  out, pull = jax.vjp(f, q, k, v)
  return out, *pull(g)


def _largest_difference(a, b):
  pairs = zip(a, b, strict=True)
  return max(float(jnp.abs(x - y).max()) for x, y in pairs)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 40])
@pytest.mark.parametrize(("T", "N", "K"), [(4, 2, 2), (11, 4, 2), (9, 3, 1)])
def test_blocks_equal_the_mask(T, N, K, window, monkeypatch):
  monkeypatch.setattr(ops, "BLOCK", 4)
  with jax.enable_x64(True):
    inputs = _inputs(T, N, K)
    masked = lambda q, k, v: ops.attention(q, k, v, ops.causal_mask(T, window))
    blocks = lambda q, k, v: ops.causal_attention(q, k, v, window)
    want = jax.jit(lambda *a: _both(masked, *a))(*inputs)
    got = jax.jit(lambda *a: _both(blocks, *a))(*inputs)
    assert _largest_difference(got, want) < 1e-13


@pytest.mark.parametrize("name", ["_seen", "_blocks"])
def test_a_key_too_few_or_too_many_is_noticed(name, monkeypatch):
  monkeypatch.setattr(ops, "BLOCK", 4)
  real = getattr(ops, name)
  mutants = {
    "_seen": lambda *a: jnp.roll(real(*a), 1, -1),
    "_blocks": lambda T, w: [(a, b, min(s + 1, a)) for a, b, s in real(T, w)],
  }
  with jax.enable_x64(True):
    inputs = _inputs(11, 4, 2)
    masked = lambda q, k, v: ops.attention(q, k, v, ops.causal_mask(11, 3))
    want = jax.jit(lambda *a: _both(masked, *a))(*inputs)
    monkeypatch.setattr(ops, name, mutants[name])
    try:
      wrong = lambda q, k, v: ops.causal_attention(q, k, v, 3)
      got = jax.jit(lambda *a: _both(wrong, *a))(*inputs)
    except (TypeError, ValueError):
      return  # shapes that do not meet are noticed too
    assert _largest_difference(got, want) > 1e-3


def test_large_hidden_logits_do_not_drown_what_is_seen():
  q, k, v, _ = _inputs(5, 1, 1, np.float32)
  k = k.at[:, 3:].mul(1e4)
  out = ops.causal_attention(q, k, v)
  assert bool(jnp.isfinite(out).all())
  want = ops.causal_attention(q[:, :3], k[:, :3], v[:, :3])
  np.testing.assert_allclose(out[:, :3], want, atol=1e-6)


def test_documents_of_a_row_do_not_see_each_other(monkeypatch):
  """In blocks as under a whole mask; what is everyone's is seen by all."""
  monkeypatch.setattr(ops, "BLOCK", 4)
  everyone = masks.EVERYONE
  segment = np.array(
    [
      [1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 0, 0],
      [everyone, everyone, 1, 1, 1, 1, 1, 1, 1, 2, 2, 0],
    ]
  )
  T = segment.shape[1]
  r = np.random.default_rng(0)
  q, weight = r.normal(size=(2, 2, T, 4, 6))
  k, v = r.normal(size=(2, 2, T, 2, 6))
  place = np.broadcast_to(np.arange(T), segment.shape)
  mask = masks.attention_mask(segment, segment, place, place)

  def of(f):
    loss = lambda q, k, v: (f(q, k, v) * weight).sum()
    return jax.tree.leaves(
      jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)
    )

  with jax.enable_x64(True):
    want = of(lambda q, k, v: ops.attention(q, k, v, mask))
    got = of(lambda q, k, v: ops.causal_attention(q, k, v, None, segment))
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    # Mutants: blind to documents; the shared keys taken for a document's own.
    alone = np.where(segment == everyone, 9, segment)
    for wrong in (None, alone):
      bad = of(lambda q, k, v, w=wrong: ops.causal_attention(q, k, v, None, w))
      assert np.abs(bad[1] - want[1]).max() > 1e-2
