"""The sampler: filters against a naive loop, draws against their odds."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.ops import sampling
from llm_jax.ops.sampling import Sampler


def naive(logits, sampler, order="tkpm"):
  """Probabilities of one row after the filters, by loops over tokens."""
  V = len(logits)
  if sampler.temperature == 0:
    return np.eye(V)[int(np.argmax(logits))]
  kept = set(range(V))
  scale = 1 if "t" not in order else sampler.temperature
  l = [float(x) / scale for x in logits]

  def odds():
    top = max(l[v] for v in kept)
    p = {v: np.exp(l[v] - top) for v in kept}
    return {v: x / sum(p.values()) for v, x in p.items()}

  for step in order:
    ranked = sorted(kept, key=lambda v: -l[v])
    if step == "k" and 0 < sampler.top_k < V:
      last = ranked[min(sampler.top_k, len(ranked)) - 1]
      kept = {v for v in kept if l[v] >= l[last]}
    if step == "p" and sampler.top_p < 1:
      p, reached, last = odds(), 0.0, ranked[0]
      for v in ranked:
        if v != ranked[0] and reached >= sampler.top_p:
          break
        reached, last = reached + p[v], v
      kept = {v for v in kept if l[v] >= l[last]}
    if step == "m":
      p = odds()
      kept = {v for v in kept if p[v] >= sampler.min_p * max(p.values())}
  p = odds()
  return np.array([p.get(v, 0.0) for v in range(V)])


SAMPLERS = [
  Sampler(t, k, p, m)
  for t, k, p, m in itertools.product(
    (0.7, 1.0, 1.8), (0, 1, 3, 9, 40), (0.0, 0.55, 0.9, 1.0), (0.0, 0.23, 1.0)
  )
] + [Sampler(0.0), Sampler(0.0, 3, 0.5, 0.5)]


def some_logits(seed, rows=6):
  """[rows, 9], half of them full of ties."""
  l = np.random.default_rng(seed).normal(0, 2, (rows, 9))
  l[rows // 2 :] = np.round(l[rows // 2 :])
  return l


@pytest.mark.parametrize("group", range(4))
def test_filters_are_the_naive_loop(group):
  with jax.enable_x64(True):
    for i, sampler in list(enumerate(SAMPLERS))[group::4]:
      logits = some_logits(i)
      got = jax.nn.softmax(sampling.filtered(logits, sampler), -1)
      want = [naive(row, sampler) for row in logits]
      np.testing.assert_allclose(got, want, atol=1e-12, err_msg=str(sampler))


@pytest.mark.parametrize("order", ["kpm", "tkm", "tpm", "tkp", "tmpk"])
def test_a_filter_left_out_or_out_of_turn_is_caught(order):
  """Mutants: no temperature, one filter less, filters from the last on."""
  differ = 0
  with jax.enable_x64(True):
    for i, sampler in enumerate(SAMPLERS[::5]):
      logits = some_logits(i)
      got = jax.nn.softmax(sampling.filtered(logits, sampler), -1)
      wrong = [naive(row, sampler, order) for row in logits]
      differ += np.abs(got - np.array(wrong)).max() > 1e-6
  assert differ > 0


def test_ties_stay_together_and_the_top_always_stays():
  l = np.log(np.array([[0.1, 0.3, 0.3, 0.3]], np.float32))
  kept = lambda **k: np.isfinite(sampling.filtered(l, Sampler(**k)))[0].tolist()
  assert kept(top_k=1) == [False, True, True, True]
  assert kept(top_k=2) == [False, True, True, True]
  assert kept(top_p=0.0) == [False, True, True, True]
  assert kept(min_p=1.0) == [False, True, True, True]
  assert kept(top_k=4) == kept(top_k=5) == kept(top_k=10**6) == [True] * 4
  assert kept(temperature=0) == [False, True, False, False]


@pytest.mark.parametrize("temperature", [1e-45, 1e-39, 1e-30, 1e-6])
def test_nearly_no_temperature_is_greedy_and_finite(temperature):
  l = np.array([[-3.0, 50.0, 49.0], [2.0, -50.0, 1.0]], np.float32)
  keys = jax.random.split(jax.random.key(0), 2)
  token, logp = sampling.sample(keys, l, Sampler(temperature))
  assert token.tolist() == [1, 0]
  assert logp.tolist() == [0, 0]


def test_bfloat16_logits_are_widened_first():
  l = jnp.asarray(some_logits(0), jnp.bfloat16)
  for sampler in SAMPLERS[::7]:
    got = sampling.filtered(l, sampler)
    assert got.dtype == jnp.float32
    want = sampling.filtered(l.astype(jnp.float32), sampler)
    np.testing.assert_array_equal(got, want)


LOGITS = np.array([0.3, 1.4, -0.6, 0.9, 0.0, -2.0])
DRAWS = 20_000


def draws(sampler, logits=LOGITS, seed=0):
  keys = jax.random.split(jax.random.key(seed), DRAWS)
  rows = np.broadcast_to(logits, (DRAWS, len(logits)))
  return jax.jit(sampling.sample, static_argnums=2)(keys, rows, sampler)


def misfit(token, p):
  """Chi-square a degree of freedom; infinite for an impossible token."""
  count = np.bincount(token, minlength=len(p))
  if count[p == 0].any():
    return np.inf
  want = DRAWS * p[p > 0]
  return ((count[p > 0] - want) ** 2 / want).sum() / max((p > 0).sum() - 1, 1)


@pytest.mark.parametrize(
  "sampler",
  [Sampler(), Sampler(0.6), Sampler(1.5, 4), Sampler(1.2, 5, 0.8, 0.1)],
  ids=lambda s: f"{s.temperature}-{s.top_k}-{s.top_p}-{s.min_p}",
)
def test_tokens_are_drawn_as_often_as_they_should(sampler):
  token, logp = draws(sampler)
  p = naive(LOGITS, sampler)
  assert misfit(token, p) < 4
  # What is recorded is of the distribution drawn from.
  np.testing.assert_allclose(logp, np.log(p[token]), atol=1e-5)
  # Mutants: another temperature; the model's own distribution recorded.
  hot = dataclasses.replace(sampler, temperature=sampler.temperature * 1.3)
  assert misfit(token, naive(LOGITS, hot)) > 4
  if sampler != Sampler():
    raw = np.log(naive(LOGITS, Sampler()))[token]
    assert np.abs(logp - raw).max() > 0.05


@pytest.mark.parametrize("size", [1, 7, 64, 300])
def test_a_token_is_where_a_uniform_number_meets_the_sums(size, monkeypatch):
  """Of the odds in their order; tokens of no weight are never met."""
  r = np.random.default_rng(size)
  logits = r.normal(0, 2, size)
  logits[r.random(size) < 0.3] = -np.inf
  logits[size // 2] = 0.0
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(1), 2000)
    u = jax.vmap(lambda key: jax.random.uniform(key, (), np.float64))(keys)
    sums = np.cumsum(np.exp(logits))
    want = np.searchsorted(sums, np.asarray(u) * sums[-1], side="right")
    rows = np.broadcast_to(logits, (len(keys), size))
    draw = lambda: sampling.sample(keys, rows, Sampler())[0]
    np.testing.assert_array_equal(draw(), want)
    if size < 300:
      return
    # The mutant: what stands before a block is forgotten within it.
    reached = sampling._reached
    forget = lambda *args: (reached(*args)[0], 0.0)
    monkeypatch.setattr(sampling, "_reached", forget)
    assert (draw() != want).mean() > 0.1


def test_a_sum_that_rounding_leaves_behind_still_names_a_token():
  """An aim at the last sum, or beyond, is met by the last token of weight."""
  reached = np.array([[0.0, 1.0, 3.0, 3.0, 3.0]], np.float32)
  for aim, place, before in ((0, 1, 0), (1, 2, 1), (3, 2, 1), (4, 2, 1)):
    found = sampling._reached(reached, np.array([aim], np.float32))
    assert [x.tolist() for x in found] == [[place], [before]]


def test_greedy_is_the_arg_max_and_the_first_of_equals():
  l = np.array([[1, 3, 3], [5, 2, 5], [0, 0, 1e-3]], np.float32)
  for seed in range(5):
    keys = jax.random.split(jax.random.key(seed), 3)
    token, logp = sampling.sample(keys, l, Sampler(0.0))
    assert token.tolist() == np.argmax(l, -1).tolist() == [1, 0, 2]
    assert logp.tolist() == [0, 0, 0]


def test_a_row_is_drawn_by_its_own_key_alone():
  l = jnp.asarray(some_logits(3), jnp.float32)
  keys = jax.random.split(jax.random.key(1), 6)
  whole, _ = sampling.sample(keys, l, Sampler(1.5))
  for i in range(6):
    alone, _ = sampling.sample(keys[i : i + 1], l[i : i + 1], Sampler(1.5))
    assert alone[0] == whole[i]
  # Mutant: one key for the whole batch draws by place in the batch.
  flat = jnp.zeros((6, 1000))
  draw = lambda rows: jax.random.categorical(jax.random.key(0), rows).tolist()
  assert draw(flat) != draw(flat[:1]) * 6


def test_top_p_reached_exactly_keeps_no_more():
  """The mutant <= for < would keep one token too many."""
  logits_BV = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
  kept_BV = jnp.isfinite(sampling.filtered(logits_BV, Sampler(top_p=0.5)))
  np.testing.assert_array_equal(kept_BV, [[True, False, False, False]])
