"""Sums of judges."""

import pytest

from llm_jax.contracts import Question, Verdict
from llm_jax.judges import rules
from llm_jax.judges.weighted import BySum, Sum

ASKED = [
  Question((("user", "say"),), ("1", "no digit")),
  Question((("user", "say"),), ("22",)),
]


def test_a_sum_is_weighted_and_tells_its_parts():
  judge = BySum(
    (("digit", rules.Pattern(r"\d")), ("short", rules.Length(most=1))),
    (2.0, 0.5),
  )
  first, second = judge(ASKED)
  assert first.scores == (2.0, -3.5) and second.scores == (1.5,)
  assert first.parts == (("digit", (1.0, 0.0)), ("short", (0.0, -7.0)))
  assert first.reason == "digit: 1, 0; short: 0, -7"


def test_an_order_does_not_add():
  only_orders = lambda questions: (
    Verdict((1.0,), ordinal=True) for _ in questions
  )
  judge = BySum((("tournament", only_orders),), (1.0,))
  with pytest.raises(ValueError, match="tournament.: only orders"):
    next(judge(ASKED[1:]))


def test_weights_are_as_many_as_parts():
  with pytest.raises(ValueError, match="--judge.weights=1.0,2.0: there are 1"):
    Sum(weights=(1.0, 2.0))


@pytest.mark.parametrize("weights", [(), (float("nan"),), (float("inf"),)])
def test_weights_are_numbers_and_there_is_a_part(weights):
  with pytest.raises(ValueError, match="--judge.weights=.*: must be a finite"):
    Sum(parts=(rules.Length(),) * len(weights), weights=weights)
