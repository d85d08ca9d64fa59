"""Attention in blocks is attention under the causal mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import attention as ops


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
