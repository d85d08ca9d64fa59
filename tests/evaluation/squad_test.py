"""Exact match and F1 as SQuAD's scripts have them, worked by hand."""

import hypothesis
from hypothesis import strategies as st
import pytest

from llm_jax.evaluation import squad

texts = st.text("ab the.,", max_size=12)


@pytest.mark.parametrize(
  "text,want",
  [
    ("The  Cat, a dog!", "cat dog"),
    ("theatre an-d A.N. then", "theatre and then"),
    ("U.S. $5.00", "us 500"),
    ("a", ""),
    ("\u00ab\u00c9t\u00e9\u00bb", "\u00ab\u00e9t\u00e9\u00bb"),
    (" \t\n ", ""),
  ],
)
def test_normalised(text, want):
  """Punctuation goes before articles: "A.N." is "an", and so is gone."""
  assert squad.normalised(text) == want


@pytest.mark.parametrize(
  "answer,truth,want",
  [
    ("the cat", "Cat.", (1, 1)),
    ("black cat", "cat", (0, 2 / 3)),
    ("cat cat", "cat", (0, 2 / 3)),  # it is in both once
    ("cat cat dog", "dog cat cat cat", (0, 6 / 7)),
    ("dog", "cat", (0, 0)),
    ("", "", (1, 1)),
    ("", "cat", (0, 0)),
    ("the", "", (1, 1)),
  ],
)
def test_answers_by_hand(answer, truth, want):
  assert squad.exact(answer, truth) == want[0]
  assert squad.f1(answer, truth) == pytest.approx(want[1])


ANSWERS = {"a": "the cat", "b": "dog", "c": "", "d": "bird", "e": "x y"}
TRUTHS = {"a": ["dog", "cat"], "b": ["dog food"], "c": [], "d": [], "e": ["x"]}


def test_the_nearest_truth_counts_and_parts_are_apart():
  found = squad.evaluate(ANSWERS, TRUTHS)
  two_thirds = 2 / 3
  want = {
    "exact_match": 2 / 5,
    "f1": (1 + two_thirds + 1 + 0 + two_thirds) / 5,
    "questions": 5,
    "has_answer_exact_match": 1 / 3,
    "has_answer_f1": (1 + 2 * two_thirds) / 3,
    "has_answer_questions": 3,
    "no_answer_exact_match": 1 / 2,
    "no_answer_f1": 1 / 2,
    "no_answer_questions": 2,
  }
  assert found == pytest.approx(want)
  # v1.1: every question has an answer, and there are no parts.
  some = {i: t for i, t in TRUTHS.items() if t}
  assert set(squad.evaluate(ANSWERS, some)) == {
    "exact_match",
    "f1",
    "questions",
  }
  # Mutant: the first truth, not the nearest.
  first = {i: t[:1] for i, t in TRUTHS.items()}
  assert squad.evaluate(ANSWERS, first)["exact_match"] < found["exact_match"]


def test_a_truth_that_normalises_to_nothing_is_none():
  """As the script of v2.0: such a question is answered by nothing."""
  assert squad.score("", ["--"]) == (1, 1)
  assert squad.score("", ["--", "x"]) == (0, 0)
  assert not squad.has_answer(["the", "..."])


def test_the_best_threshold_is_that_of_all_that_there_are():
  """Every threshold tried, the slow way."""
  over = {"a": -3.0, "b": 1.0, "c": -1.0, "d": 2.0, "e": 1.0}
  said = ANSWERS | {"c": "something"}
  found = squad.best_thresholds(said, over, TRUTHS)
  for name in ("exact_match", "f1"):
    tried = {}
    for at in (-float("inf"), *sorted(over.values())):
      told = {i: x if over[i] <= at else "" for i, x in said.items()}
      tried[at] = squad.evaluate(told, TRUTHS)[name]
    best = max(tried.values())
    assert found[f"best_{name}"] == pytest.approx(best)
    at = min(t for t, x in tried.items() if x == pytest.approx(best))
    assert found[f"best_{name}_threshold"] == at
  # Mutant: of two questions at one threshold only the first is told.
  assert found["best_f1"] != pytest.approx((1 + 2 / 3 + 1) / 5)


@hypothesis.given(texts, texts)
def test_laws(a, b):
  assert squad.f1(a, b) == squad.f1(b, a)
  assert squad.exact(a, b) <= squad.f1(a, b) <= 1
  assert squad.normalised(squad.normalised(a)) == squad.normalised(a)
  assert squad.score(a, [b, a]) == (1, 1) or not squad.normalised(a)


def test_what_cannot_be_measured():
  with pytest.raises(ValueError, match="no question"):
    squad.evaluate({}, {})
  with pytest.raises(ValueError, match="1 of 2 .* being b"):
    squad.evaluate({"a": ""}, {"a": [], "b": []})
