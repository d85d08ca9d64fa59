"""Attention and its masks, against loops and against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import attention, masks

B, T, S, N, K, H = 2, 5, 7, 6, 3, 4


def draw(seed=0, kv=K):
  r = np.random.default_rng(seed)
  q = r.normal(size=(B, T, N, H))
  k, v = r.normal(size=(2, B, S, kv, H))
  mask = r.random((B, 1, T, S)) < 0.5
  mask[..., 0] = True
  return q, k, v, mask


def naive(q, k, v, mask, head=lambda n, kv: n // (N // kv)):
  out = np.zeros_like(q)
  for b, t, n in np.ndindex(B, T, N):
    j = head(n, k.shape[2])
    l = [
      q[b, t, n] @ k[b, s, j] / H**0.5 if mask[b, 0, t, s] else -np.inf
      for s in range(S)
    ]
    p = np.exp(np.array(l) - max(l))
    out[b, t, n] = p @ v[b, :, j] / p.sum()
  return out


@pytest.mark.parametrize("kv", [N, K, 1], ids=["multi", "grouped", "single"])
def test_attention_is_the_naive_loop(kv):
  q, k, v, mask = draw(kv=kv)
  with jax.enable_x64(True):
    got = attention.attention(q, k, v, mask)
    np.testing.assert_allclose(got, naive(q, k, v, mask), rtol=1e-11)
    if kv == K:  # mutant: heads dealt out in turn, not in groups
      wrong = naive(q, k, v, mask, lambda n, kv: n % kv)
      assert np.abs(got - wrong).max() > 0.1
    assert np.abs(got - naive(q, k, v, mask | True)).max() > 0.1


def test_attention_is_jax_s_own_gradients_included():
  q, k, v, mask = (jnp.asarray(x) for x in draw(1))
  weight = jnp.asarray(np.random.default_rng(2).normal(size=q.shape))

  def of(f):
    loss = lambda q, k, v: (f(q, k, v, mask=mask) * weight).sum()
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)

  ours = of(lambda q, k, v, mask: attention.attention(q, k, v, mask))
  theirs = of(jax.nn.dot_product_attention)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_query_that_sees_nothing_is_finite_with_its_gradient():
  q, k, v, mask = draw(3)
  mask[1, :, 2] = False
  with jax.enable_x64(True):
    f = lambda q: attention.attention(q, k, v, mask)
    np.testing.assert_allclose(
      f(q)[1, 2], np.repeat(v[1].mean(0), N // K, 0), rtol=1e-12
    )
    assert np.isfinite(jax.grad(lambda q: f(q).sum())(q)).all()


def test_half_precision_has_its_softmax_in_float32():
  """4,096 equal keys: summed in bfloat16, the shares would stop at 256."""
  q = jnp.zeros((1, 1, 1, 8), jnp.bfloat16)
  k = jnp.zeros((1, 4096, 1, 8), jnp.bfloat16)
  v = jnp.ones((1, 4096, 1, 8), jnp.bfloat16)
  got = attention.attention(q, k, v, jnp.ones((1, 1, 1, 4096), bool))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(np.float32), 1.0, atol=0.01)


@pytest.mark.parametrize("window", [None, 1, 3])
def test_causal_masks_by_loops(window):
  got = attention.causal_mask(T, window)
  assert got.shape == (1, 1, T, T)
  for t, s in np.ndindex(T, T):
    near = window is None or t - s < window
    assert bool(got[0, 0, t, s]) == (s <= t and near)


@pytest.mark.parametrize("window", [None, 2])
def test_masks_of_packed_rows_by_loops(window):
  segment = np.array([[1, 1, 2, 2, 2, 3, 0, 0]])
  place = np.array([[0, 1, 0, 1, 2, 0, 0, 1]])
  got = masks.attention_mask(segment, segment, place, place, window)
  assert got.shape == (1, 1, 8, 8)
  for t, s in np.ndindex(8, 8):
    far = place[0, t] - place[0, s]
    near = window is None or far < window
    want = segment[0, t] == segment[0, s] and far >= 0 and near
    assert bool(got[0, 0, t, s]) == want


def test_a_mask_of_one_document_is_the_causal_one():
  ones, place = np.ones((1, T), int), np.arange(T)[None]
  for window in (None, 2):
    got = masks.attention_mask(ones, ones, place, place, window)
    np.testing.assert_array_equal(got, attention.causal_mask(T, window))
