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
  """Half for a whole line, half for one about what the reference is about.

  Whole is one line that ends with a full stop where the reference does; about
  the same, what has a word of it, common ones apart. The right line is worth
  1; cut short or another function's, it loses one half or both, or neither
  where that cannot be seen (29% and 4% of `StdlibPreferences`).
  """

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """0, 0.5 or 1; ValueError where the question has no reference."""
    right = known(question, self).strip()
    found = completion.strip()
    ends = found.endswith(".") or not right.endswith(".")
    whole = len(found.splitlines()) == 1 and ends
    about = found == right or bool(_about(right) & _about(found))
    said = ("whole" if whole else "not whole", "" if about else "not ")
    return (whole + about) / 2, "{}, {}about the same".format(*said)


def _about(line: str) -> frozenset[str]:
  """Beginnings of the words of a line, and of the parts of its names."""
  words = (word.lower() for word in _WORD.findall(line))
  return frozenset(
    word[:_STEM] for word in words if len(word) > 1 and word not in _COMMON
  )
