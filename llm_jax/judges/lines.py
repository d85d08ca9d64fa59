"""The rule that a docstring's own line is preferred by, without a model."""

import dataclasses
import re

from llm_jax.contracts import Question
from llm_jax.judges.references import known
from llm_jax.judges.rules import Rule

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_STEM = 5  # letters by which words are told apart: returns, returned
# Words that say nothing of what a line is about.
_COMMON = frozenset(
  "a all an and any are as at be by each for from given has have if in into is"
  " it its new no not object of on one only or return set that the this to use"
  " used value when whether which with you".split()
)


@dataclasses.dataclass(frozen=True)
class Line(Rule):
  """1 where a completion is a whole line about what the reference is about.

  It has a word of the reference, common ones apart, and ends with a full stop
  where the reference does. The right line is worth 1; one cut short, or that of
  another function, seldom is anything.
  """

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """1 or 0; ValueError where the question has no reference."""
    right = known(question, self).strip()
    found = completion.strip()
    if right.endswith(".") and not found.endswith("."):
      return 0.0, "not whole"
    if found != right and not _about(right) & _about(found):
      return 0.0, "about something else"
    return 1.0, "whole, and about the same"


def _about(line: str) -> frozenset[str]:
  """Beginnings of the words of a line, and of the parts of its names."""
  words = (word.lower() for word in _WORD.findall(line))
  return frozenset(
    word[:_STEM] for word in words if len(word) > 1 and word not in _COMMON
  )
