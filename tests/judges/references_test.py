"""Rules that hold a completion against the known answer."""

import numpy as np
import pytest

from llm_jax.contracts import Question
from llm_jax.judges import references, rules
from llm_jax.judges.references import Number, Rouge

PROMPT = (("user", "say"),)


def scores(rule, *completions, reference=None):
  (found,) = rule([Question(PROMPT, completions, reference)])
  return list(found.scores)


def test_the_last_number_counts():
  said = ("so it is 1,234.", "1234.0", "1234 or 7", "-1234", "none", "12 34")
  right = "7 and 5 make 12, and so on\n#### 1,234"
  assert scores(Number(), *said, reference=right) == [1, 1, 0, 0, 0, 0]
  assert scores(Number(), ".5", "0.50", reference="#### 0.5") == [1, 1]


# By the package rouge-score 0.1.2: RougeScorer(["rougeL"]).score(...).fmeasure
ROUGE = (
  ("Return the size of a file.", "Return the size of a file.", 1.0),
  ("Return the size of a file.", "return a file", 2 / 3),
  ("the cat sat on the mat", "the mat sat on the cat", 2 / 3),
  ("Return x_1, not 2.", "x-1 is what it returns", 4 / 11),
  ("one two", "three", 0.0),
  ("one two", "", 0.0),
)


@pytest.mark.parametrize("right, said, expected", ROUGE)
def test_rouge_is_that_of_the_package(right, said, expected):
  found = scores(Rouge(), said, reference=right)
  assert found == [pytest.approx(expected, abs=1e-12)]


def table(a, b):
  """The longest common subsequence, by the table of all beginnings."""
  best = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, x in enumerate(a):
    for j, y in enumerate(b):
      here = best[i, j] + 1 if x == y else 0
      best[i + 1, j + 1] = max(here, best[i, j + 1], best[i + 1, j])
  return int(best[-1, -1])


def test_what_words_have_in_common_is_the_tables():
  """Up to rows that no machine word holds."""
  r = np.random.default_rng(0)
  for size in (0, 1, 2, 5, 9, 40, 70, 130):
    for other in (0, 1, 3, 64, 65):
      a, b = (r.choice(list("abcd"), n).tolist() for n in (size, other))
      assert references._common(a, b) == table(a, b)


def test_rouge_is_worth_nothing_below_a_bound():
  assert scores(Rouge(least=0.7), "return a file", reference=ROUGE[0][0]) == [0]


@pytest.mark.parametrize("rule", [Number(), Rouge()])
def test_without_a_known_answer_it_is_told(rule):
  name = type(rule).__name__
  with pytest.raises(ValueError, match=f"--judge .{name}.: these prompts come"):
    scores(rule, "3")


def test_a_known_answer_without_a_number_is_told():
  with pytest.raises(ValueError, match="no number in the answer 'none'"):
    scores(Number(), "3", reference="none")


def test_code_is_parsed_within_what_stands_around_it():
  rule = rules.Python(around="def f{}: pass")
  assert scores(rule, "(a, *, b=1)", "(a", "a") == [1, 0, 0]
  with pytest.raises(ValueError, match="--judge.around=pass: has no {}"):
    rules.Python(around="pass")
