"""A comparison counts only if it survives the swap."""

import itertools

from llm_jax.contracts import Question
from llm_jax.judges import comparisons
from llm_jax.judges.comparisons import Answer, Two
from llm_jax.judges.rubric import asking, ByRubric, Rubric

PROMPT = (("user", "say"),)


def by(better):
  """A `Compare` that asks a function of two texts."""

  def compare(twos):
    for two in twos:
      yield Answer(better(two.first, two.second), "so it is")

  return compare


def verdict(better, *completions):
  (found,) = comparisons.judge([Question(PROMPT, completions)], by(better))
  assert found.ordinal
  return found


longer = lambda a, b: (len(a) > len(b)) - (len(a) < len(b))
first = lambda a, b: 1
second = lambda a, b: -1


def test_a_judge_of_content_ranks_all_completions():
  found = verdict(longer, "a", "aaa", "aa", "bb")
  assert found.scores == (-3, 0, -1, -1)
  assert "1 over 0: so it is" in found.reason
  assert "2 and 3 are a tie" in found.reason
  assert "order decides" not in found.reason


def test_a_judge_of_places_says_nothing():
  for better in (first, second):
    found = verdict(better, "a", "aaa", "aa")
    assert found.scores == (0, 0, 0)
    assert found.reason.count("the order decides") == 3


def test_a_win_in_one_order_and_a_tie_in_the_other_is_a_tie():
  half = lambda a, b: int(a == "aaa")
  assert verdict(half, "a", "aaa").scores == (0, 0)


def test_mutant_without_the_swap_a_place_is_taken_for_quality(monkeypatch):
  monkeypatch.setattr(comparisons, "survivor", lambda there, _: there.better)
  assert verdict(first, "a", "aaa", "aa").scores != (0, 0, 0)
  monkeypatch.undo()
  # Mutant: the swapped answer is read as if it had not been swapped.
  same = lambda there, back: there.better if there == back else 0
  monkeypatch.setattr(comparisons, "survivor", same)
  assert verdict(longer, "a", "aaa").scores == (0, 0)
  assert verdict(first, "a", "aaa").scores != (0, 0)


def test_a_bias_that_only_content_overcomes_costs_near_calls_only():
  # The first is liked by 2; what is more than 2 longer wins all the same.
  biased = lambda a, b: 1 if len(a) + 2 > len(b) else -1
  completions = ["a", "bb", "c" * 9]
  found = verdict(biased, *completions)
  assert found.scores == (-1, -1, 0)
  unbiased = verdict(longer, *completions)
  assert unbiased.scores == (-2, -1, 0)


def test_every_two_are_asked_both_ways_for_each_question():
  asked = []

  def compare(twos):
    asked.extend(twos)
    yield from by(longer)(twos)

  questions = [Question((("user", str(i)),), ("a", "bb")) for i in range(2)]
  questions.append(Question(PROMPT, ("alone",)))
  found = list(comparisons.judge(questions, compare))
  assert [v.scores for v in found] == [(-1, 0), (-1, 0), (0,)]
  both = itertools.permutations(("a", "bb"))
  want = [Two(q, *ab) for q, ab in itertools.product("01", list(both))]
  assert sorted(asked) == sorted(want)


def test_turns_are_shown_with_who_speaks():
  turns = (("user", "a"), ("assistant", "b"), ("user", "c"))
  assert comparisons.shown(turns) == "user: a\n\nassistant: b\n\nuser: c"
  assert comparisons.shown(turns[:1]) == "a"


def likelihood(log_odds):
  """As a model whose log p(A) - log p(B) depends on what it is asked."""

  def each(rows):
    for text, letter in rows:
      yield (log_odds(text) if letter == "A" else 0.0) - 3.0

  return each


def likes_x(text):
  """1 nat for each x in answer A over answer B, and 1.5 for standing first."""
  _, _, answers = text.partition("Answer A:\n")
  a, _, b = answers.partition("Answer B:\n")
  return a.count("x") - b.count("x") + 1.5


def test_a_model_judges_by_its_letters():
  question = Question(PROMPT, ("o", "xx", "x"))
  (found,) = ByRubric(Rubric(), likelihood(likes_x))([question])
  assert found.scores == (-2, 0, -1)  # only two x are more than the place
  assert "1 over 0: 0.500 nats" in found.reason
  assert found.reason.count("the order decides") == 2
  # With a margin no difference is left.
  (none,) = ByRubric(Rubric(margin=1.0), likelihood(likes_x))([question])
  assert none.scores == (0, 0, 0)


def test_the_rubric_and_both_answers_are_in_what_is_asked():
  text = asking("Be kind.", Two("why?", "so", "no"))
  assert text.startswith("Be kind.\n")
  assert text.index("why?") < text.index("so") < text.index("no")
  assert text.index("Answer A") < text.index("so") < text.index("Answer B")
