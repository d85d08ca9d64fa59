"""The rule by which a docstring's own line is preferred to others."""

import pytest

from llm_jax.contracts import Question
from llm_jax.judges.lines import Line

RIGHT = "Return a list of the section names."


def score(completion, reference=RIGHT):
  question = Question((("user", "?"),), (completion,), reference)
  (verdict,) = Line()([question])
  return verdict.scores[0]


@pytest.mark.parametrize(
  ("completion", "worth"),
  [
    (RIGHT, 1),
    (f"  {RIGHT}\n", 1),
    ("Sections, named one by one.", 1),  # beginnings of words
    ("Gives ConfigParser.sections_in_order.", 1),  # parts of names
    ("Return a list of the section", 0.5),  # cut short
    ("Return a", 0),
    ("Close the file and flush its buffer.", 0.5),  # another function's
    ("Return a new one, of the object given.", 0.5),  # mutant: common words
    ("Close the file", 0),
    ("The sections.\nReturn a list of their names.", 0.5),  # no line
    ("", 0),
  ],
)
def test_whole_and_about_the_same(completion, worth):
  assert score(completion) == worth


def test_what_is_no_sentence_need_not_end_as_one():
  assert score("section names, sorted", "names of the sections") == 1
  assert score("section names.", "names of the sections") == 1
  assert score("", "names of the sections") == 0
  # Mutant: nothing is about a reference of common words, not even itself.
  assert score("Return it.", "Return it.") == 1
  assert score("Return the value.", "Return it.") == 0.5


def test_without_an_answer_to_match_it_says_so():
  with pytest.raises(ValueError, match=r"\(Line\): these prompts come without"):
    score("x", None)
