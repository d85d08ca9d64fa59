"""A cache that grows with what is drawn holds what a whole one does."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax import model as model_lib
from llm_jax.generation import decode as decode_lib
from llm_jax.models import cache as cache_lib
from llm_jax.ops.sampling import Sampler
from tests import small

P, LIMIT, STOPS = 5, 7, (6, 1)
LENGTHS = np.array([2, 5, 1], np.int32)
PROMPTS = np.random.default_rng(0).integers(1, 16, (3, P), np.int32)


def rollout(unroll, grow=None, slots=P):
  """Drawn in parts of at most four tokens, if the cache grows."""
  shape = dataclasses.replace(small.CONFIG, unroll=unroll, dtype="float64")
  _, variables = small.build(shape)
  model = model_lib.of_shape(shape)

  @jax.jit
  def run(variables, key):
    variables = model.ready(variables)
    return decode_lib.rollout(
      model.decode,
      variables,
      PROMPTS,
      LENGTHS,
      model.open_cache(variables, 3, slots),
      key,
      limit=LIMIT,
      sampler=Sampler(1.3),
      stop_ids=STOPS,
      grow=grow,
    )

  return jax.device_get(run(variables, jax.random.key(3)))


@pytest.mark.parametrize("unroll", [0, 1])
def test_a_cache_that_grows_holds_what_a_whole_one_does(unroll, monkeypatch):
  monkeypatch.setattr(decode_lib, "_LEAST", 4)
  with jax.enable_x64(True):
    whole = rollout(unroll, slots=P + LIMIT)
    grown = rollout(unroll, cache_lib.grown)
    assert 4 < whole.length_B.max() and whole.length_B.min() < LIMIT
    for name in ("tokens_BT", "mask_BT", "length_B"):
      np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name))
    np.testing.assert_allclose(
      grown.sampled_logp_BT, whole.sampled_logp_BT, rtol=0, atol=1e-12
    )
    if unroll:
      return
    # The mutant: too little room, so the last slot is written again and again.
    short = rollout(unroll, lambda cache, n: cache_lib.grown(cache, n - 1))
    assert (short.sampled_logp_BT != grown.sampled_logp_BT).any()


def test_nothing_is_read_once_all_rows_have_stopped(monkeypatch):
  """In no part of the loop; the mutant goes on to the last token."""
  monkeypatch.setattr(decode_lib, "_LEAST", 4)
  shape = dataclasses.replace(small.CONFIG, num_layers=1, unroll=0)
  _, variables = small.build(shape)
  model = model_lib.of_shape(shape)
  calls = []

  def decode(*given):
    jax.debug.callback(lambda: calls.append(given[1].shape))
    return model.decode(*given)

  def draw(stops):
    calls.clear()
    out = decode_lib.rollout(
      decode,
      variables,
      PROMPTS,
      LENGTHS,
      model.open_cache(variables, 3, P),
      jax.random.key(0),
      limit=LIMIT,
      sampler=Sampler(),
      stop_ids=stops,
      grow=cache_lib.grown,
    )
    jax.effects_barrier()
    return int(out.length_B.max())

  longest = draw(tuple(range(8)))
  assert 0 < longest < 4  # within the first part
  assert calls == [(3, P)] + longest * [(3, 1)]
  assert draw(()) == LIMIT and len(calls) == 1 + LIMIT
