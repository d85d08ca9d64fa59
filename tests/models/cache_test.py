"""Decoding by the cache = the full forward, in float64, for every shape."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from llm_jax.models import cache as cache_lib
from llm_jax.models.config import RopeScaling
from tests import small

SHAPES = {
  **small.SHAPES,
  "llama3": dataclasses.replace(
    small.CONFIG,
    rope_scaling=RopeScaling(factor=8.0, original_length=16),
    unroll=0,
  ),
  "rope_window": dataclasses.replace(
    small.CONFIG, window=3, qk_norm=True, unroll=2, tied=False
  ),
  "window_of_one": dataclasses.replace(small.CONFIG, window=1, num_kv_heads=1),
}
LENGTHS = np.array([1, 3, 6, 5])  # of prompts; P = 6 slots
P, STEPS = 6, 5
TOKENS = np.random.default_rng(0).integers(0, 16, (4, P + STEPS), np.int32)


def full(config, model, variables):
  """Logits [4, P + STEPS, V] of rows aligned on the left, by plain products."""
  x_BTD = jax.jit(model.apply)(variables, TOKENS)
  if getattr(
    config, "head_dense", False
  ):  # whose values from outside are among the goldens
    return np.asarray(model.apply(variables, x_BTD, method="logits"))
  params = variables["params"]
  head = params["embedding"].T if config.tied else params["head"]
  logits = np.asarray(x_BTD @ head)
  cap = config.logit_softcap
  return cap * np.tanh(logits / cap) if cap else logits


def padded(lengths=LENGTHS):
  """Prompts aligned on the right, with ids before them that must not count."""
  tokens = np.random.default_rng(1).integers(0, 16, (4, P), np.int32)
  place = np.arange(P)[None] - (P - lengths[:, None])
  for row, n, known in zip(tokens, lengths, TOKENS, strict=True):
    row[P - n :] = known[:n]
  segment = (place >= 0).astype(np.int32)
  return tokens, np.maximum(place, 0).astype(np.int32), segment


def decoder(model):
  return jax.jit(functools.partial(model.apply, method="decode"))


def cached(model, decode, variables, *, parts=(P,), pads=0, shift=0):
  """Logits [4, 1 + STEPS, V]: after the prompts, then a token at a time.

  The mutants: `pads` the segment of padding; `shift` of places that follow.
  """
  cache = cache_lib.empty(model.config, 4, P + STEPS + 2)
  tokens, place, segment = padded()
  segment = np.where(segment == 0, pads, segment).astype(np.int32)
  out, start = [], 0
  for n in parts:
    at = np.s_[:, start : start + n]
    args = tokens[at], place[at], segment[at]
    logits, cache = decode(variables, *args, cache)
    start += n
  out.append(logits)
  for i in range(STEPS):
    at = (LENGTHS + i).astype(np.int32)
    token = TOKENS[np.arange(4), at][:, None]
    ones = np.ones((4, 1), np.int32)
    args = token, at[:, None] + np.int32(shift), ones
    logits, cache = decode(variables, *args, cache)
    out.append(logits)
  assert int(cache.length) == P + STEPS
  return np.stack(out, 1)


def expected(logits):
  return np.stack(
    [row[n - 1 : n + STEPS] for row, n in zip(logits, LENGTHS, strict=True)]
  )


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decoding_is_the_full_forward(shape):
  config = SHAPES[shape]
  with jax.enable_x64(True):
    model, variables = small.build(config)
    want = expected(full(config, model, variables))
    decode = decoder(model)
    got = cached(model, decode, variables)
    np.testing.assert_allclose(got, want, atol=1e-11)
    # A row does not know what else is in the batch.
    TOKENS[0], kept = (TOKENS[0] + 1) % 16, TOKENS[0].copy()
    try:
      other = cached(model, decode, variables)
    finally:
      TOKENS[0] = kept
  np.testing.assert_array_equal(other[1:], got[1:])
  assert np.abs(other[0] - got[0]).max() > 1e-3


@pytest.mark.parametrize("shape", ["llama", "gpt2", "window"])
def test_wrong_pads_and_places_are_caught(shape):
  """Mutants: padding seen as text; places of new tokens one too far."""
  if shape == "window":
    # Without places, only the window tells one from the next.
    config = dataclasses.replace(SHAPES[shape], window=2)
  else:
    config = SHAPES[shape]
  with jax.enable_x64(True):
    model, variables = small.build(config)
    decode = decoder(model)
    want = cached(model, decode, variables)
    for mutant in ({"pads": 1}, {"shift": 1}):
      got = cached(model, decode, variables, **mutant)
      assert np.abs(got - want).max() > 1e-3, mutant


def test_a_prompt_in_parts_is_a_prompt_at_once():
  with jax.enable_x64(True):
    model, variables = small.build(SHAPES["rope_window"])
    want = expected(full(model.config, model, variables))
    decode = decoder(model)
    for parts in ((2, 4), (1, 1, 4)):
      got = cached(model, decode, variables, parts=parts)
      np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("unroll", [0, 1])
@pytest.mark.parametrize("mutant", ["layers", "places", "slots"])
def test_a_wrong_cache_is_caught(monkeypatch, mutant, unroll):
  """Mutants: layers share keys; what a slot holds is not written; one slot."""
  with jax.enable_x64(True):
    shape = dataclasses.replace(small.CONFIG, unroll=unroll)
    model, variables = small.build(shape)
    want = expected(full(model.config, model, variables))
    whole = cache_lib.store
    if mutant == "layers":
      wrong = lambda cache, layer, k, v: whole(cache, layer * 0, k, v)
      monkeypatch.setattr(cache_lib, "store", wrong)
    elif mutant == "places":
      wrong = lambda cache, place, segment: dataclasses.replace(
        cache, segment_BS=cache.segment_BS + 1
      )
      monkeypatch.setattr(cache_lib, "note", wrong)
    else:

      def wrong(cache, *args):
        first = dataclasses.replace(cache, length=cache.length * 0)
        new, *rest = whole(first, *args)
        return dataclasses.replace(new, length=cache.length), *rest

      monkeypatch.setattr(cache_lib, "store", wrong)
    got = cached(model, decoder(model), variables)
  assert np.abs(got - want).max() > 1e-3
