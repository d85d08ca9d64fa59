import pytest

from llm_jax.evaluation import exact_match


def test_equal_but_for_space_around():
  found = exact_match.evaluate(
    ["a b", " a b\n", "a  b", "A b", "", "a b c"],
    ["a b", "a b", "a b", "a b", "a b", "a b"],
  )
  assert found == {"exact_match": 2 / 6, "questions": 6.0}


def test_nothing_else_earns_anything():
  """The classic mistakes: containing, beginning with, any case."""
  for answer in ("the reference", "reference.", "Reference", "refer"):
    assert not exact_match.matches(answer, "reference")


def test_no_question_and_an_answer_too_few_are_errors():
  with pytest.raises(ValueError, match="no question"):
    exact_match.evaluate([], [])
  with pytest.raises(ValueError, match="longer"):
    exact_match.evaluate(["a"], ["a", "b"])


def test_each_task_alone():
  found = exact_match.by_task(
    ["a", "b", "c", "d", "e"],
    ["a", "x", "c", "d", "e"],
    ["n", "m", "n", "m", ""],
  )
  assert found == {
    "m": {"exact_match": 0.5, "questions": 2.0},
    "n": {"exact_match": 1.0, "questions": 2.0},
  }
  assert list(found) == ["m", "n"]  # in the same order, whoever is asked first


def test_one_task_is_not_told_twice():
  for task in ("", "name"):
    assert exact_match.by_task(["a", "b"], ["a", "x"], [task] * 2) == {}
