"""N-gram baselines against counting by hand and by dictionaries."""

from collections import Counter
import math

import numpy as np
import pytest

from llm_jax.evaluation import ngrams


def slow(ids, V, order, plain=False):
  """p(w, h) of interpolated Kneser-Ney, by dictionaries and recursion.

  The mutant: `plain` counts below the highest order.
  """
  text = tuple(int(i) for i in ids)
  grams = [
    [text[i : i + k] for i in range(len(text) - k + 1)]
    for k in range(order + 2)
  ]
  counts = {order: Counter(grams[order])}
  for k in range(1, order):
    # One for each distinct token to the left.
    distinct = [g[1:] for g in set(grams[k + 1])]
    counts[k] = Counter(grams[k] if plain else distinct)
  discount = {}
  for k, c in counts.items():
    n1 = sum(x == 1 for x in c.values())
    n2 = sum(x == 2 for x in c.values())
    discount[k] = n1 / (n1 + 2 * n2) if n1 else 0.5

  def p(w, h):
    if len(h) == 0:
      lower = 1 / V
    else:
      lower = p(w, h[1:])
    c, D = counts[len(h) + 1], discount[len(h) + 1]
    after = {g: x for g, x in c.items() if g[:-1] == h}
    total = sum(after.values())
    if not total:
      return lower
    kept = max(after.get((*h, w), 0) - D, 0)
    return (kept + D * len(after) * lower) / total

  return p


def some_ids(seed=0, n=60, V=5):
  r = np.random.default_rng(seed)
  return r.choice(V, n, p=np.arange(V, 0, -1) / sum(range(V + 1)))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_kneser_ney_is_the_slow_one(order, seed):
  V, train, test = 6, some_ids(seed, 300), some_ids(seed + 9, 40)
  test[7] = 5  # never seen
  test[20:32] = train[5:17]  # long n-grams seen
  grams = [
    (int(w), tuple(int(i) for i in test[max(0, i - order + 1) : i]))
    for i, w in enumerate(test)
  ]
  p = slow(train, V, order)
  want = [p(w, h) for w, h in grams]
  got = ngrams.KneserNey(train, V, order).probability(test)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  # Mutants: plain counts, other orders.
  if order > 1:
    p = slow(train, V, order, plain=True)
    assert np.abs(np.array([p(w, h) for w, h in grams]) - want).max() > 1e-3
  for wrong in (order + 1, order - 1):
    if wrong:
      other = ngrams.KneserNey(train, V, wrong).probability(test)
      assert np.abs(other - want).max() > 1e-4


def test_kneser_ney_by_hand():
  """The text 0 1 0 1 0 2 with bigrams: 01 twice, 10 twice, 02 once.

  Bigrams: n1 = 1, n2 = 2, D = 1/5. Left contexts: 0 after {1}, 1 after {0}, 2
  after {0}: one each, of 3; n1 = 3, n2 = 0, D = 1, so p(w) = 1/4 of V = 4.
  """
  model = ngrams.KneserNey(np.array([0, 1, 0, 1, 0, 2]), 4, order=2)
  p = lambda *ids: model.probability(np.array(ids))[-1]
  np.testing.assert_allclose(p(0), 1 / 4)
  spread = 1 / 5 * 2 / 3  # two tokens follow 0, three times in all
  np.testing.assert_allclose(p(0, 1), (2 - 1 / 5) / 3 + spread / 4)
  np.testing.assert_allclose(p(0, 2), (1 - 1 / 5) / 3 + spread / 4)
  np.testing.assert_allclose(p(0, 3), spread / 4)
  np.testing.assert_allclose(p(1, 0), (2 - 1 / 5) / 2 + 1 / 5 / 2 / 4)
  np.testing.assert_allclose(p(2, 0), 1 / 4)  # nothing ever followed 2
  np.testing.assert_allclose(p(3, 1), 1 / 4)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_of_every_context_sum_to_one(order):
  V, train = 6, some_ids(3, 200)
  model = ngrams.KneserNey(train, V, order)
  r = np.random.default_rng(0)
  starts = r.integers(0, len(train) - order, 20)
  contexts = [train[s : s + order - 1] for s in starts]
  contexts += list(r.integers(0, V, (20, order - 1)))
  contexts.append(train[len(train) - order + 1 :])  # nothing follows it
  for context in contexts:
    p = [model.probability(np.array([*context, v]))[-1] for v in range(V)]
    np.testing.assert_allclose(sum(p), 1, rtol=1e-12)
    assert min(p) > 0
  # Mutant: the lower order left out.
  level = model._levels[-1]
  level.follow = level.follow * 0
  p = [model.probability(np.array([*contexts[0], v]))[-1] for v in range(V)]
  assert abs(sum(p) - 1) > 1e-3


def test_a_token_never_seen_keeps_a_probability():
  """Also where every token of the text is common (n1 = 0 for unigrams)."""
  train = np.tile([0, 1, 0, 2, 1, 2, 0, 0, 1, 1, 2, 2], 20)
  for order in (1, 2, 5):
    model = ngrams.KneserNey(train, 6, order)
    assert (model._levels[0].counts != 1).all()
    test = np.array([0, 5, 4, 1])
    assert (model.probability(test) > 0).all()
    assert np.isfinite(model.evaluate(test, np.ones(6, int))["loss"])


def test_more_context_helps_on_text_that_has_it():
  r = np.random.default_rng(0)
  ids = [0, 0]
  for _ in range(4000):  # each token follows from the two before it
    ids.append((ids[-1] + 2 * ids[-2] + int(r.random() < 0.1)) % 7)
  train, test = np.array(ids[:3000]), np.array(ids[3000:])
  ones = np.ones(7, int)
  loss = [
    ngrams.KneserNey(train, 7, order).evaluate(test, ones)["loss"]
    for order in (1, 2, 3, 5)
  ]
  noise = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
  assert min(loss[:2]) > loss[2] + 1
  assert noise < loss[2] < noise + 0.1
  assert loss[3] < noise + 0.3


def test_unigram_by_hand():
  train, test = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0])
  got = ngrams.unigram(train, test, 4, np.array([1, 2, 4, 9]))
  nats = -2 * math.log(4 / 8) - math.log(2 / 8) - math.log(1 / 8)
  np.testing.assert_allclose(got["loss"], nats / 4)
  np.testing.assert_allclose(got["perplexity"], math.exp(nats / 4))
  np.testing.assert_allclose(got["bits_per_byte"], nats / math.log(2) / 8)
  assert got["token_accuracy"] == 0.5
  assert got["tokens"] == 4


def test_kneser_ney_s_measures_are_of_its_probabilities():
  train, test = some_ids(0), some_ids(1)
  model = ngrams.KneserNey(train, 5, 3)
  got = model.evaluate(test, np.array([0, 1, 2, 3, 4]))
  nats = -np.log(model.probability(test)).sum()
  np.testing.assert_allclose(got["loss"], nats / len(test))
  np.testing.assert_allclose(
    got["bits_per_byte"], nats / math.log(2) / test.sum()
  )
  assert "token_accuracy" not in got and got["tokens"] == len(test)


def test_a_large_vocabulary_does_not_overflow():
  V = 2**18
  ids = np.random.default_rng(0).integers(V - 40, V, 5000)
  p = ngrams.KneserNey(ids, V, 5).probability(ids[:100])
  assert (p > 0).all() and (p <= 1).all()
  small = ngrams.KneserNey(ids - (V - 40), V, 5).probability(ids[:100] - V + 40)
  np.testing.assert_allclose(p, small, rtol=1e-12)


def test_too_short_a_text_is_one_clear_line():
  with pytest.raises(ValueError, match=r"^3 tokens are too few for 5-grams$"):
    ngrams.KneserNey(np.array([0, 1, 2]), 4)
