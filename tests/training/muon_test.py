"""Muon's direction: each layer's momentum, orthogonalised."""

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.training import muon, optimizers
from tests.training.leaves import GRADS, ours, RATES, SCHEDULE, SUFFIXES


def matrices(name, x):
  """Each layer as [in, out], heads side by side."""
  if SUFFIXES[name].endswith("D"):
    return x.reshape(x.shape[0], -1, x.shape[-1])
  return x.reshape(x.shape[0], x.shape[1], -1)


def orthogonal(name):
  """The last momentum of every layer, by SVD and the quintic on its values.

  Also gives the momentum's and the update's singular values, the first as
  shares of the norm.
  """
  m = 0.0
  for g in GRADS:
    m = 0.9 * m + g[name]
  nesterov = matrices(name, GRADS[-1][name] + 0.9 * m)
  u, s, vt = np.linalg.svd(nesterov, full_matrices=False)
  s /= np.sqrt((s * s).sum(1, keepdims=True))
  x = s
  for _ in range(5):
    x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
  return (u * x[:, None]) @ vt, s, x


def muon_update(suffixes=SUFFIXES):
  """The last update, per unit of learning rate."""
  settings = optimizers.Muon(0.1, SCHEDULE, None, 0.0, momentum=0.9)
  before = ours(settings, grads=GRADS[:-1], suffixes=suffixes)
  after = ours(settings, suffixes=suffixes)
  return {k: (before[k] - after[k]) / RATES[-1] for k in before}


@pytest.mark.parametrize("name", ["out", "query", "up"])
def test_muon_orthogonalises_each_layer(name):
  want, s, x = orthogonal(name)
  size = 0.2 * max(want.shape[1:]) ** 0.5
  got = matrices(name, muon_update()[name]) / size
  np.testing.assert_allclose(got, want, atol=1e-7)
  assert 0.67 < x[s > 1 / 600].min() and x.max() < 1.21
  root_mean_square = np.sqrt(((got * size) ** 2).mean())
  assert 0.1 < root_mean_square < 0.25  # Adam's size


def test_orthogonalising_the_stack_or_each_head_is_caught():
  want, _, _ = orthogonal("query")
  m = 0.0
  for g in GRADS:
    m = 0.9 * m + g["query"]
  m = GRADS[-1]["query"] + 0.9 * m  # [13, 8, 2, 4]
  ns = lambda x: np.asarray(muon.newton_schulz(jnp.asarray(x)))
  stack = ns(m.reshape(1, 104, 8)).reshape(13, 8, 8)
  heads = ns(m.transpose(0, 2, 1, 3).reshape(26, 8, 4))
  heads = heads.reshape(13, 2, 8, 4).transpose(0, 2, 1, 3).reshape(13, 8, 8)
  layers = ns(m.reshape(13, 8, 8))
  np.testing.assert_allclose(layers, want, atol=1e-4)
  assert np.abs(stack - want).max() > 0.1
  assert np.abs(heads - want).max() > 0.1


def test_muon_of_nothing_is_nothing():
  assert not muon.newton_schulz(jnp.zeros((2, 4, 3))).any()
