"""Rotary embeddings against complex numbers and Llama 3's released rule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import positions

H = 8


def turned(x, at, frequencies):
  """The pair (i, i + H/2) as a complex number, turned by at * frequency."""
  z = x[..., : H // 2] + 1j * x[..., H // 2 :]
  z = z * np.exp(1j * np.asarray(at)[..., None, None] * np.array(frequencies))
  return np.concatenate([z.real, z.imag], -1)


def rotated(x, at, frequencies):
  cos, sin = positions.rope_tables(jnp.asarray(at), frequencies, x.dtype)
  return positions.rotate(x, cos, sin)


def test_rotation_is_complex_multiplication():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, H))
  at = np.array([[0, 1, 7], [3, 3, 100_000]])
  f = positions.rope_frequencies(H, 10_000.0)
  assert f == [10_000.0 ** (-2 * i / H) for i in range(H // 2)]
  with jax.enable_x64(True):
    got = rotated(x, at, f)
    np.testing.assert_allclose(got, turned(x, at, f), atol=1e-9)
    np.testing.assert_array_equal(got[0, 0], x[0, 0])  # place 0 turns nothing
    # Mutants: neighbours as pairs; the other way round.
    pairs = np.arange(H).reshape(2, -1).T.ravel()
    wrong = turned(x[..., np.argsort(pairs)], at, f)[..., pairs]
    assert np.abs(got - wrong).max() > 0.1
    assert np.abs(got - turned(x, -at, f)).max() > 0.1


def test_products_depend_on_distance_alone():
  q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, H))
  f = positions.rope_frequencies(H, 10_000.0)
  with jax.enable_x64(True):
    dot = lambda t, s: (
      rotated(q, np.array([[t]]), f) * rotated(k, np.array([[s]]), f)
    ).sum()
    np.testing.assert_allclose(dot(5, 2), dot(1005, 1002), atol=1e-10)
    assert abs(dot(5, 2) - dot(5, 3)) > 1e-3


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_scaling_is_the_released_rule(factor):
  """The three branches of the released reference code, on Llama 3's sizes."""
  low, high, original, theta, width = 1.0, 4.0, 8192, 500_000.0, 128
  want = []
  for i in range(width // 2):
    f = theta ** (-2 * i / width)
    wavelength = 2 * math.pi / f
    if wavelength < original / high:
      want.append(f)
    elif wavelength > original / low:
      want.append(f / factor)
    else:
      smooth = (original / wavelength - low) / (high - low)
      want.append((1 - smooth) * f / factor + smooth * f)
  got = positions.rope_frequencies(
    width,
    theta,
    factor=factor,
    low_factor=low,
    high_factor=high,
    original_length=original,
  )
  np.testing.assert_allclose(got, want, rtol=1e-13)
  plain = np.array(positions.rope_frequencies(width, theta))
  ratio = plain / got
  assert (ratio == 1).any() and np.isclose(ratio, factor).any()
  assert ((ratio > 1.01) & (ratio < factor - 0.01)).any()
  assert np.abs(got / (plain / factor) - 1).max() > 1  # mutant: all stretched


def test_far_places_keep_their_angle_in_bfloat16():
  f = positions.rope_frequencies(H, 10_000.0)
  cos, sin = positions.rope_tables(jnp.array([[1001]]), f, jnp.bfloat16)
  assert cos.dtype == jnp.bfloat16
  np.testing.assert_allclose(cos[0, 0, 0, 0], math.cos(1001), atol=0.01)
  np.testing.assert_allclose(sin[0, 0, 0, 0], math.sin(1001), atol=0.01)
  # Mutant: the place itself in bfloat16 is 1000.
  assert abs(math.cos(float(jnp.bfloat16(1001))) - math.cos(1001)) > 0.1


def test_longrope_is_a_factor_of_each_wavelength():
  f = positions.rope_frequencies(
    H, 100.0, kind="longrope", factor=8.0, stretched=(1.0, 2.0, 4.0, 8.0)
  )
  wavelengths = np.array(positions.rope_frequencies(H, 100.0)) ** -1
  np.testing.assert_allclose(1 / np.array(f), wavelengths * [1, 2, 4, 8])
  # The published factor of Phi-3 mini 128k, sqrt(1 + ln 32 / ln 4096).
  sharp = positions.rope_sharpness("longrope", 32.0, 4096)
  assert math.isclose(sharp, 1.1902380714238083, rel_tol=1e-12)


def test_part_of_a_head_is_rotated():
  x = np.random.default_rng(0).normal(size=(1, 3, 2, H)).astype(np.float32)
  f, at = positions.rope_frequencies(H - 2, 100.0), np.arange(3)[None]
  got = rotated(x, at, f)
  np.testing.assert_array_equal(got[..., H - 2 :], x[..., H - 2 :])
  part = rotated(x[..., : H - 2], at, f)
  np.testing.assert_array_equal(got[..., : H - 2], part)
  assert np.abs(got - rotated(x, at, [*f, 0.0])).max() > 0.1  # other pairs


@pytest.mark.parametrize("both_ways", [True, False])
def test_relative_biases_begin_as_alibis(both_ways):
  """Of 8 heads the slopes are 1/2, 1/4, ..., 1/256, as its paper has them."""
  bias_PN = positions.local_biases(16, 32, both_ways, 8)
  away = np.array([-31, -5, -3, -1, 0, 1, 3])
  found = bias_PN[positions.relative_bucket(away, 16, 32, both_ways)]
  exact = 4 if both_ways else 8  # distances that are told one by one
  for n, d in enumerate(away):
    seen = abs(d) if both_ways else max(-d, 0)
    if seen < exact:
      np.testing.assert_allclose(found[n], -seen / 2.0 ** np.arange(1, 9))
    else:  # of a bucket its least
      assert (found[n] > -seen / 2.0 ** np.arange(1, 9)).all()
      assert (found[n] <= -exact / 2.0 ** np.arange(1, 9)).all()
