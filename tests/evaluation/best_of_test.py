"""The best of n, against every subset and against every draw."""

import itertools
import math

import numpy as np
import pytest

from llm_jax.evaluation import best_of


def subsets(score_N, value_N, n):
  """The mean over all subsets; of those as good, any."""
  found = []
  for chosen in itertools.combinations(range(len(score_N)), n):
    best = max(score_N[i] for i in chosen)
    found.append(np.mean([value_N[i] for i in chosen if score_N[i] == best]))
  return np.mean(found)


@pytest.mark.parametrize("n", range(1, 7))
def test_the_mean_over_all_subsets(n):
  r = np.random.default_rng(n)
  score_PN, value_PN = r.normal(size=(2, 3, 6))
  score_PN[1] = [0, 0, 1, 1, 1, 2]  # ties
  score_PN[2] = 0
  got_P = best_of.expected(score_PN, value_PN, n)
  want_P = [subsets(s, v, n) for s, v in zip(score_PN, value_PN, strict=True)]
  np.testing.assert_allclose(got_P, want_P, rtol=1e-12)
  itself_P = best_of.expected(score_PN, score_PN, n)
  assert itself_P[1] == pytest.approx(subsets(score_PN[1], score_PN[1], n))
  # Mutants: the best of the first n; of ties the one that is drawn last.
  first_P = value_PN[range(3), score_PN[:, :n].argmax(1)]
  assert abs(first_P - want_P).max() > 1e-3
  last = value_PN[2] @ [math.comb(i, n - 1) / math.comb(6, n) for i in range(6)]
  assert n == 1 or abs(last - want_P[2]) > 1e-3


def test_it_has_no_bias():
  """Over every way to draw N of a known distribution."""
  p, score = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 3.0])
  value, N, n = np.array([5.0, -1.0, 2.0]), 4, 3
  draws = list(itertools.product(range(3), repeat=N))
  chance = np.array([math.prod(p[list(d)]) for d in draws])
  score_DN = np.array([score[list(d)] for d in draws])
  value_DN = np.array([value[list(d)] for d in draws])
  below = np.cumsum(p) ** n  # the best of n is no better than this
  best = np.diff(below, prepend=0)
  got = chance @ best_of.expected(score_DN, score_DN, n)
  np.testing.assert_allclose(got, best @ score, rtol=1e-12)
  got = chance @ best_of.expected(score_DN, value_DN, n)
  np.testing.assert_allclose(got, best @ value, rtol=1e-12)
  # Mutant: n drawn of the N with replacement.
  rank = np.arange(1, N + 1) / N
  again = np.sort(score_DN) @ np.diff(rank**n, prepend=0)
  assert best @ score - chance @ again > 0.05


def test_kl_of_the_best_of_n():
  """By the distribution of the best of 8 among many answers alike."""
  size, n = 20_000, 8
  best = np.diff((np.arange(size + 1) / size) ** n)
  exact = (best * np.log(best * size)).sum()
  assert best_of.kl(1) == 0
  np.testing.assert_allclose(best_of.kl(n), exact, rtol=1e-3)
  assert best_of.kl(n) >= exact
  assert abs(math.log(n) - exact) > 0.5  # mutant


def test_a_curve_with_another_judge():
  r = np.random.default_rng(0)
  score_PN = r.normal(size=(5, 6))
  rows = best_of.curve(score_PN, {"rule": -score_PN})
  assert [row["n"] for row in rows] == [1, 2, 4, 6]
  assert rows[0]["score"] == pytest.approx(score_PN.mean())
  assert rows[-1]["score"] == pytest.approx(score_PN.max(1).mean())
  error = score_PN.max(1).std(ddof=1) / math.sqrt(5)
  assert rows[-1]["score_error"] == pytest.approx(error)
  for row in rows:  # what the judge likes best the other likes least
    assert row["rule"] == pytest.approx(-row["score"])
  assert "score_error" not in best_of.curve(score_PN[:1], {})[0]
  with pytest.raises(ValueError, match="rule: not all answers have a finite"):
    best_of.curve(score_PN, {"rule": score_PN + np.nan})
  with pytest.raises(ValueError, match="no question to evaluate on"):
    best_of.curve(score_PN[:0], {})
  with pytest.raises(ValueError, match="best of 7 of 6 answers: expected 1"):
    best_of.expected(score_PN, score_PN, 7)
