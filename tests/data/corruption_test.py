"""What is taken away comes back exactly, and as much is taken as is said."""

import functools

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from llm_jax.data import corruption
from llm_jax.data.denoisers import Masked, Mixture, PrefixLM, Spans
from llm_jax.data.words import Vocabulary
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.extra import Extended

TOKENIZER = Extended(ByteTokenizer(), 100)
VOCABULARY = Vocabulary(TOKENIZER)
MASK, EOS = TOKENIZER.marks.mask, TOKENIZER.eos_id
SENTINELS = TOKENIZER.marks.sentinels
WAYS = (*Mixture().parts, PrefixLM(), PrefixLM(0.2, 0.7), Spans(1.0, 1.0))
WAYS += tuple(Spans(d, 2.0, "sentinel") for d in (0.0, 0.15, 0.6))
quickly = hypothesis.settings(
  deadline=None, max_examples=60, derandomize=True, database=None
)
# Text, and eos anywhere, as where documents are joined.
many_ids = st.lists(
  st.integers(12, 267) | st.just(EOS), min_size=1, max_size=150
).map(lambda ids: np.array(ids, np.int32))
seeds = st.integers(0, 2**32 - 1)


def comes_back(way, take, ids, seed):
  pair = take(way, ids, np.random.default_rng(seed))
  found = way.restore(pair, SENTINELS)
  return np.array_equal(found, ids)


def taken(way, ids, r):
  return way.pair(ids, VOCABULARY, r)


@pytest.mark.parametrize("way", WAYS, ids=str)
@quickly
@hypothesis.given(ids=many_ids, seed=seeds)
def test_source_and_target_are_the_text(way, ids, seed):
  pair = taken(way, ids, np.random.default_rng(seed))
  assert comes_back(way, taken, ids, seed)
  source, target = way.sizes(len(ids))
  if isinstance(way, Spans):
    assert (len(pair.source), len(pair.target)) == (source, target)
    used = np.isin(pair.target, SENTINELS).sum()
    assert used == way.num_sentinels(len(ids)) <= len(SENTINELS)
  else:
    assert len(pair.source) <= source and len(pair.target) <= target
  assert len(pair.source) + len(pair.target) == way.total(len(ids))
  assert pair.source.dtype == pair.target.dtype == np.int32


def spans_out_of_order(way, ids, r):
  pair = taken(way, ids, r)
  last = np.flatnonzero(np.isin(pair.target, SENTINELS))[-1]
  moved = [pair.target[last:-1], pair.target[:last], pair.target[-1:]]
  target = np.concatenate(moved)
  swapped = np.where(np.isin(target, SENTINELS), target[::-1], target)
  return pair._replace(target=swapped)


def one_sentinel_for_all(way, ids, r):
  pair = taken(way, ids, r)
  same = lambda a: np.where(np.isin(a, SENTINELS), SENTINELS[0], a)
  return corruption.Pair(same(pair.source), same(pair.target))


def a_token_lost(way, ids, r):
  pair = taken(way, ids, r)
  return pair._replace(target=np.delete(pair.target, 1))


@pytest.mark.parametrize(
  "mutant", [spans_out_of_order, one_sentinel_for_all, a_token_lost]
)
def test_mutants_that_lose_text_are_caught(mutant):
  ids = np.arange(12, 72, dtype=np.int32)
  assert not comes_back(Spans(), mutant, ids, 0)


def test_t5_s_own_lengths():
  """568 ids become 512 and 114, as T5's released code has them."""
  assert Spans().sizes(568) == (512, 114)
  assert Spans().sizes(569) != (512, 114)


def test_a_known_example():
  ids = np.arange(12, 22, dtype=np.int32)
  taken_T = np.isin(ids, [14, 15, 19])
  a, b, c = SENTINELS[:3]
  pair = corruption.take_out(ids, taken_T, SENTINELS, EOS)
  assert pair.source.tolist() == [12, 13, a, 16, 17, 18, b, 20, 21, EOS]
  assert pair.target.tolist() == [a, 14, 15, b, 19, EOS]
  pair = corruption.take_out(ids, taken_T, SENTINELS, EOS, final=True)
  assert pair.target.tolist() == [a, 14, 15, b, 19, c, EOS]
  # What a model leaves out is nothing, and what it makes up is not read.
  said = pair._replace(target=np.array([b, 19, c, 3, EOS]))
  found = corruption.put_back(said, SENTINELS)
  assert found.tolist() == [12, 13, *ids[4:].tolist()]


@quickly
@hypothesis.given(
  size=st.integers(0, 300), density=st.floats(0, 1), mean=st.floats(0, 70)
)
def test_as_many_are_taken_as_is_said(size, density, mean):
  num, spans = corruption.counts(size, density, mean)
  noise_T = corruption.noise(size, num, spans, np.random.default_rng(0))
  assert len(noise_T) == size and noise_T.sum() == num
  starts = noise_T & ~np.concatenate([[False], noise_T[:-1]])
  assert starts.sum() == spans
  if size > 1:
    assert num in (1, size - 1) or abs(num - size * density) <= 0.5


def shares_of_masks(noise, draws=3000):
  """How often each mask of 8 ids, 3 of them in 2 spans, is drawn."""
  r = np.random.default_rng(0)
  drawn = [tuple(noise(8, 3, 2, r).tolist()) for _ in range(draws)]
  return {mask: drawn.count(mask) / draws for mask in set(drawn)}


def always_the_end(size, num, spans, r):
  """A mutant: the last id is always taken."""
  noise_T = corruption.noise(size, num, spans, r)
  while not noise_T[-1]:
    noise_T = corruption.noise(size, num, spans, r)
  return noise_T


def spans_of_chance(size, num, spans, r):
  """A mutant: the first span is a single id more often than not."""
  while True:
    noise_T = corruption.noise(size, num, spans, r)
    is_one = not noise_T[np.argmax(noise_T) + 1]
    if is_one or r.random() < 0.2:
      return noise_T


def test_all_masks_are_alike_likely():
  # 2 ways to part 3 into 2; 15 to put two spans among 5 others.
  found = shares_of_masks(corruption.noise)
  assert len(found) == 30
  close = lambda its: max(abs(share - 1 / 30) for share in its.values())
  assert close(found) < 0.015
  assert len(shares_of_masks(always_the_end, 600)) < 30
  assert close(shares_of_masks(spans_of_chance)) > 0.015


def test_one_span_at_the_end():
  ids = np.arange(12, 52, dtype=np.int32)
  for seed in range(9):
    pair = taken(Spans(0.25, 0.0), ids, np.random.default_rng(seed))
    assert pair.source.tolist() == [*ids[:30].tolist(), SENTINELS[0], EOS]
    assert pair.target.tolist() == [SENTINELS[0], *ids[30:].tolist(), EOS]


@functools.cache
def masked_share(choose, rate, sizes):
  """Mean share of ids chosen, of units of some sizes, over many draws."""
  r = np.random.default_rng(1)
  unit_T = np.repeat(np.arange(len(sizes)), sizes)
  unit_T[0] = -1
  draws = [choose(unit_T, rate, r) for _ in range(3000)]
  assert not any(chosen[0] for chosen in draws)
  for chosen in draws[:50]:  # no unit in part
    for unit in range(len(sizes)):
      assert len(set(chosen[unit_T == unit].tolist())) <= 1
  return np.mean([chosen[1:].mean() for chosen in draws])


def rounded_up(unit_T, rate, r):
  """A mutant: the unit that crosses the border is always taken."""
  more = max(np.bincount(unit_T[unit_T >= 0])) / (unit_T >= 0).sum()
  return corruption.choose(unit_T, min(rate + more / 2, 1), r)


@pytest.mark.parametrize("sizes", [(1,) * 40, (2, 1, 3, 1, 5, 2, 4), (1, 1)])
@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
def test_the_share_that_is_hidden(sizes, rate):
  # Standard error: less than half a unit / sqrt(3000).
  error = 4 * max(sizes) / sum(sizes) / 2 / 3000**0.5
  assert abs(masked_share(corruption.choose, rate, sizes) - rate) <= error
  if rate < 1 and sum(sizes) > 2:
    assert abs(masked_share(rounded_up, rate, sizes) - rate) > error


def eighty_ten_ten(hide):
  """Shares of those chosen that are masked, another token, and as they were."""
  ids = np.full(50_000, 99, np.int32)
  chosen_T = np.arange(len(ids)) % 2 == 0
  others = VOCABULARY.text_ids
  w, r = Masked(), np.random.default_rng(2)
  out = hide(ids, chosen_T, MASK, others, (w.masked, w.random), r)
  assert (out[~chosen_T] == 99).all()
  assert np.array_equal(corruption.reveal(out, ids, chosen_T), ids)
  mine = out[chosen_T]
  drawn = mine[(mine != MASK) & (mine != 99)]
  assert set(drawn.tolist()) <= set(others.tolist())
  return [(mine == MASK).mean(), len(drawn) / len(mine), (mine == 99).mean()]


def all_masked(ids, chosen_T, mask_id, others, shares, r):
  return corruption.hide(ids, chosen_T, mask_id, others, (1.0, 0.0), r)


def test_eighty_ten_ten():
  # A random token is in 256 the same one.
  want = [0.8, 0.1 * 255 / 256, 0.1 + 0.1 / 256]
  np.testing.assert_allclose(eighty_ten_ten(corruption.hide), want, atol=0.01)
  with pytest.raises(AssertionError):
    np.testing.assert_allclose(eighty_ten_ten(all_masked), want, atol=0.01)


@quickly
@hypothesis.given(ids=many_ids, seed=seeds, rate=st.floats(0.01, 1))
def test_what_is_hidden_is_revealed(ids, seed, rate):
  r = np.random.default_rng(seed)
  units = VOCABULARY.words(ids, np.zeros(len(ids), bool))
  chosen_T = corruption.choose(units, rate, r)
  assert not chosen_T[ids == EOS].any()
  out = corruption.hide(ids, chosen_T, MASK, VOCABULARY.text_ids, (0.8, 0.1), r)
  # Nothing but the targets that are told.
  told = np.where(chosen_T, ids, -1)
  assert np.array_equal(corruption.reveal(out, told, chosen_T), ids)


def test_beginnings_are_of_all_sizes_alike():
  r, ids = np.random.default_rng(0), np.arange(12, 22, dtype=np.int32)
  ats = [len(corruption.split(ids, (0.0, 1.0), r).source) for _ in range(9000)]
  counts = np.bincount(ats, minlength=11) / len(ats)
  np.testing.assert_allclose(counts[1:10], 1 / 9, atol=0.02)
  assert not counts[[0, 10]].any()
  ats = [len(corruption.split(ids, (0.3, 0.5), r).source) for _ in range(99)]
  assert set(ats) == {3, 4, 5}


WRONG = [
  (lambda: Masked(masked=0.9, random=0.2), "--data.corruption.masked=0.9"),
  (lambda: PrefixLM(0.6, 0.5), "--data.corruption.shortest=0.6: more than"),
  (lambda: Mixture(weights=(1.0,)), "--data.corruption.weights=1.0: one for"),
  (lambda: Mixture(modes=("Q",) * 7), "--data.corruption.modes=Q: one of R"),
  (lambda: Mixture(weights=(0.0,) * 7), "weights: must be positive"),
]


@pytest.mark.parametrize("make,said", WRONG, ids=[said for _, said in WRONG])
def test_settings_that_cannot_be(make, said):
  with pytest.raises(ValueError, match=said):
    make()


def test_the_default_mixture_is_that_of_the_table():
  """Mean spans and shares of UL2's table 1, of rows of 512."""
  found = [
    (p.density, corruption.counts(512, p.density, p.mean_span))
    for p in Mixture().parts
  ]
  assert [density for density, _ in found] == [
    *(0.15, 0.15, 0.25, 0.5, 0.5, 0.15, 0.5)
  ]
  means = [num / spans for _, (num, spans) in found]
  wanted = [3, 8, 512 / 4, 3, 8, 64, 64]
  np.testing.assert_allclose(means, wanted, rtol=0.25)
