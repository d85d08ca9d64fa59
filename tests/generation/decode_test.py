"""The compiled loop = drawing a token at a time from full forwards."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.generation import decode as decode_lib
from llm_jax.models import cache as cache_lib
from llm_jax.ops import sampling
from llm_jax.ops.sampling import Sampler
from tests import small

LENGTHS = np.array([2, 5, 1], np.int32)
P, LIMIT, PAD, STOPS = 5, 8, 0, (6, 1)
PROMPTS = np.random.default_rng(0).integers(1, 16, (3, P), np.int32)
SAMPLER, SEED = Sampler(1.3, 12, 0.95), 0


@functools.cache
def furniture():
  """(model, variables, decode), in float64; called where x64 is on."""
  model, variables = small.build()
  decode = lambda v, *args: model.apply(v, *args, method="decode")
  return model, variables, decode


def naive(row, key, limit=LIMIT, sampler=SAMPLER, stops=STOPS):
  """(tokens, logp) of one prompt, by a full forward for each token.

  Rows are forwarded at full width: later tokens do not matter.
  """
  model, variables, _ = furniture()
  forward = _forward(model)
  known = list(PROMPTS[row, P - LENGTHS[row] :])
  ids, logps = [], []
  for n in range(limit):
    whole = np.zeros((1, P + LIMIT), np.int32)
    whole[0, : len(known)] = known
    x = forward(variables, whole)[0, len(known) - 1]
    logits = variables["params"]["embedding"] @ x
    k = jax.random.fold_in(key, n)
    token, logp = sampling.sample(k[None], logits[None], sampler)
    known.append(int(token[0]))
    ids.append(int(token[0]))
    logps.append(float(logp[0]))
    if ids[-1] in stops:
      break
  return ids, logps


@functools.cache
def _forward(model):
  return jax.jit(model.apply)


def keys_of(key, rows=3):
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


@functools.cache
def rollout(seed=SEED, sampler=SAMPLER, stops=STOPS):
  model, variables, decode = furniture()

  def run(variables, prompt, length, key):
    cache = cache_lib.empty(model.config, 3, P + LIMIT)
    end = {"limit": LIMIT, "sampler": sampler, "stop_ids": stops}
    return decode_lib.rollout(
      decode, variables, prompt, length, cache, key, **end
    )

  return jax.jit(run)(variables, PROMPTS, LENGTHS, jax.random.key(seed))


def test_a_rollout_is_the_naive_loop():
  with jax.enable_x64(True):
    out = rollout()
    keys, stopped = keys_of(jax.random.key(SEED)), 0
    for row, k in enumerate(keys):
      ids, logps = naive(row, k)
      n = len(ids)
      stopped += n < LIMIT
      assert out.length_B[row] == n
      assert out.tokens_BT[row].tolist() == ids + [PAD] * (LIMIT - n)
      # The stop id counts; what follows it does not.
      assert out.mask_BT[row].tolist() == [True] * n + [False] * (LIMIT - n)
      np.testing.assert_allclose(
        out.sampled_logp_BT[row], logps + [0] * (LIMIT - n), atol=1e-11
      )
    assert 0 < stopped < 3  # both kinds of end were seen
    # Mutants: scored at another temperature; every row drawn with one key.
    hot = dataclasses.replace(SAMPLER, temperature=1.0)
    assert naive(0, keys[0], sampler=hot)[1] != logps
    assert naive(1, keys[0])[0] != naive(1, keys[1])[0]


def test_greedy_does_not_depend_on_the_key():
  with jax.enable_x64(True):
    a, b = (rollout(s, Sampler(0.0), ()) for s in (0, 1))
    np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
    assert a.length_B.tolist() == [LIMIT] * 3
    for row in range(3):
      ids, _ = naive(row, jax.random.key(9), sampler=Sampler(0.0), stops=())
      assert a.tokens_BT[row].tolist() == ids


def extend(progress, limit, stops=STOPS):
  return _extend(limit, stops)(furniture()[1], progress)


@functools.cache
def _extend(limit, stops):
  end = {"limit": limit, "sampler": SAMPLER, "stop_ids": stops, "pad_id": PAD}
  run = functools.partial(decode_lib.extend, furniture()[2], **end)
  return jax.jit(lambda v, p: run(v, p))


def prefilled(rows=slice(None), width=P):
  model, variables, _ = furniture()
  prompt = PROMPTS[rows]
  wide = np.full((len(prompt), width), PAD, np.int32)
  wide[:, width - P :] = prompt
  cache = cache_lib.empty(model.config, len(prompt), width + LIMIT)
  keys = keys_of(jax.random.key(SEED))[rows]
  return _prefill()(variables, wide, LENGTHS[rows], cache, keys)


@functools.cache
def _prefill():
  return jax.jit(functools.partial(decode_lib.prefill, furniture()[2]))


@pytest.mark.parametrize("cut", [1, 3])
def test_two_calls_draw_what_one_draws(cut):
  with jax.enable_x64(True):
    want = rollout()
    middle, first = extend(prefilled(), cut)
    _, second = extend(middle, LIMIT - cut)
    for name in ("tokens_BT", "mask_BT", "sampled_logp_BT"):
      got = np.concatenate([getattr(first, name), getattr(second, name)], 1)
      np.testing.assert_allclose(got, getattr(want, name), atol=1e-12)
    # Mutant: the count of tokens starts again, and so do the keys.
    again = dataclasses.replace(middle, count=middle.count * 0)
    _, wrong = extend(again, LIMIT - cut)
    assert (wrong.tokens_BT != second.tokens_BT).any()


def test_a_row_alone_draws_what_it_draws_among_others():
  """Whatever the others say, and however much padding comes before."""
  with jax.enable_x64(True):
    want = rollout()
    for row in range(3):
      start = prefilled(slice(row, row + 1), width=P + 3)
      _, alone = extend(start, LIMIT)
      np.testing.assert_array_equal(alone.tokens_BT[0], want.tokens_BT[row])
      np.testing.assert_allclose(
        alone.sampled_logp_BT[0], want.sampled_logp_BT[row], atol=1e-11
      )


def test_the_loop_ends_once_every_row_has_stopped():
  with jax.enable_x64(True):
    progress, out = extend(prefilled(), LIMIT, stops=tuple(range(16)))
    assert int(progress.count) == 1
    assert progress.done_B.all() and out.length_B.tolist() == [1, 1, 1]
    after, nothing = extend(progress, LIMIT, stops=tuple(range(16)))
    assert int(after.count) == 1 and not nothing.mask_BT.any()


COPIES = 4


@functools.cache
def _completed(copies):
  """Compiled: rows of prompts, their caches taken in an order."""
  model, _, decode = furniture()

  def run(variables, prompt, length, key, order):
    def repeat(cache, times):
      rows = cache_lib.repeated(cache, times)
      return jax.tree.map(lambda x: x[order] if x.ndim else x, rows)

    return decode_lib.rollout(
      decode,
      variables,
      prompt,
      length,
      cache_lib.empty(model.config, len(prompt), P + LIMIT),
      key,
      limit=LIMIT,
      sampler=SAMPLER,
      stop_ids=STOPS,
      completions=copies,
      repeat=repeat,
    )

  return jax.jit(run)


def test_a_prompt_read_once_is_completed_as_if_read_for_each():
  with jax.enable_x64(True):
    variables, key = furniture()[1], jax.random.key(SEED)
    as_it_is = np.arange(3 * COPIES)
    ask = lambda copies, rows, order: _completed(copies)(
      variables, PROMPTS[rows], LENGTHS[rows], key, order
    )
    once = ask(COPIES, np.arange(3), as_it_is)
    each = ask(1, np.repeat(np.arange(3), COPIES), as_it_is)
    np.testing.assert_array_equal(once.tokens_BT, each.tokens_BT)
    np.testing.assert_array_equal(once.length_B, each.length_B)
    np.testing.assert_allclose(
      once.sampled_logp_BT, each.sampled_logp_BT, rtol=0, atol=1e-12
    )
    # Completions of a prompt are not one and the same.
    assert len(np.unique(once.tokens_BT[:COPIES], axis=0)) > 1
    # The mutant: caches one after the other, not beside their prompts.
    beside = as_it_is.reshape(3, COPIES).T.reshape(-1)
    mixed = ask(COPIES, np.arange(3), beside)
    assert (mixed.tokens_BT != each.tokens_BT).any()
