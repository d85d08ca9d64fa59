"""Judges that look at the text alone."""

import math

import pytest

from llm_jax import config
from llm_jax.contracts import Question
from llm_jax.judges import references, rules

PROMPT = (("user", "say"),)


def scores(rule, *completions, reference=None):
  (found,) = rule([Question(PROMPT, completions, reference)])
  assert not found.ordinal and all(map(math.isfinite, found.scores))
  assert all(f"{i}: " in found.reason for i in range(len(completions)))
  return list(found.scores)


def test_length_costs_what_is_beyond_its_bounds():
  rule = rules.Length(least=2, most=4)
  assert scores(rule, "a", "ab", "abcd", "abcdef", " ab ") == [-1, 0, 0, -2, 0]
  words = rules.Length(least=1, most=2, unit="words")
  assert scores(words, "a longer one", "two\nwords") == [-1, 0]
  with pytest.raises(
    ValueError, match=r"--judge.least=5: more than --judge.mo"
  ):
    rules.Length(least=5, most=4)


def test_a_pattern_is_found_or_is_the_whole():
  assert scores(rules.Pattern(r"\d+"), "a 12", "none") == [1, 0]
  assert scores(rules.Pattern(r"\d+", whole=True), "12\n", "a 12") == [1, 0]
  assert scores(rules.Pattern("(?i)YES"), "yes", "no") == [1, 0]
  with pytest.raises(ValueError, match=r"--judge.pattern=\(: no regular exp"):
    rules.Pattern("(")


def test_exact_is_the_reference_but_for_space_around_it():
  rule = references.Exact()
  assert scores(rule, " yes\n", "Yes", "yes.", reference="yes") == [1, 0, 0]
  assert scores(rule, "", "a", reference="") == [1, 0]
  with pytest.raises(ValueError, match="come without the answers"):
    scores(rule, "yes")


def test_python_parses():
  rule = rules.Python()
  good = ["x = 1", "def f():\n  return 1", "Look:\n```python\nx = 1\n```\nso"]
  bad = ["x = ", "def f():\nreturn 1", "```\nx =\n```", "", "# only this"]
  # What makes the parser itself give up is no Python, either.
  bad += ["x\0y", "(" * 10_000, "-" * 100_000 + "1", "\ud800 = 1"]
  assert scores(rule, *good) == [1] * len(good)
  assert scores(rule, *bad) == [0] * len(bad)
  assert scores(rules.Python(fenced=False), good[2]) == [0]
  assert scores(rule, r"'\d'") == [1]  # a warning is no error


def test_json_is_that_of_the_standard():
  rule = rules.JSON()
  good = ['{"a": [1, null]}', "3", '```json\n{"a": 1}\n```']
  bad = ["{'a': 1}", "", "{} {}", '{"a": NaN}', "[1,]", "[" * 100_000]
  assert scores(rule, *good) == [1] * len(good)
  assert scores(rule, *bad) == [0] * len(bad)
  assert scores(rules.JSON(fenced=False), good[2]) == [0]


@pytest.mark.parametrize("kind", rules.Rule.__subclasses__())
def test_a_rule_is_settings_and_keeps_the_order_of_questions(kind):
  rule = kind()
  assert config.from_json(config.to_json(rule)) == rule and hash(rule)
  questions = [Question(PROMPT, (c,), "1") for c in ("1", "x(" * 200, "1")]
  first, second, third = (v.scores[0] for v in rule(questions))
  assert first == third
  # Mutant: a rule that looks at another completion than it is asked about.
  assert kind is rules.Pattern or first > second
