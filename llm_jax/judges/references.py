"""Rules that hold a completion against the known answer."""

import dataclasses
import re

from llm_jax.config import field
from llm_jax.contracts import Question
from llm_jax.judges.rules import Rule

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_WORD = re.compile(r"[a-z0-9]+")


@dataclasses.dataclass(frozen=True)
class Exact(Rule):
  """1 where a completion is the reference, but for space around it."""

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """1 or 0; ValueError where the question has no reference."""
    found = completion.strip() == known(question, self).strip()
    return float(found), "the reference" if found else "other words"


@dataclasses.dataclass(frozen=True)
class Number(Rule):
  """1 where the last number of a completion is that of the reference.

  As answers to grade-school problems are marked (Cobbe et al. 2021,
  arXiv:2110.14168): 1,000 is 1000, and 3.0 is 3.
  """

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """1 or 0; ValueError where the reference is none, or holds no number."""
    right = _last(known(question, self))
    if right is None:
      raise ValueError(
        f"--judge (Number): no number in the answer {question.reference!r:.60}"
      )
    found = _last(completion)
    if found is None:
      return 0.0, "no number"
    return float(found == right), f"{found:g}, right is {right:g}"


@dataclasses.dataclass(frozen=True)
class Rouge(Rule):
  """ROUGE-L, F1: the longest common subsequence of words. Lin 2004.

  Words are lower case letters and digits, as in the package rouge-score,
  without stemming.
  """

  least: float = field(0.0, "below this it is worth nothing", low=0, high=1)

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """From 0 to 1; ValueError where the question has no reference."""
    right = _WORD.findall(known(question, self).lower())
    found = _WORD.findall(completion.lower())
    common = _common(right, found)
    f1 = 2 * common / (len(right) + len(found)) if common else 0.0
    said = f"{common} of {len(right)} words"
    return (f1 if f1 >= self.least else 0.0), said


def known(question: Question, rule: Rule) -> str:
  """The answer that is known to be right; ValueError without one."""
  if question.reference is None:
    raise ValueError(
      f"--judge ({type(rule).__name__}): these prompts come without the answers"
      " to match"
    )
  return question.reference


def _last(text: str) -> float | None:
  found = _NUMBER.findall(text)
  return float(found[-1].replace(",", "")) if found else None


def _common(a: list[str], b: list[str]) -> int:
  """Length of the longest common subsequence.

  A row of the usual table as bits of one number (Hyyro 2004): those of b after
  which the row's next number is no larger stay 1. So a row costs a few
  operations, and an update of long answers no time.
  """
  where: dict[str, int] = {}
  for i, word in enumerate(b):
    where[word] = where.get(word, 0) | 1 << i
  full = (1 << len(b)) - 1
  row = full
  for word in a:
    hit = row & where.get(word, 0)
    row = (row + hit | row - hit) & full
  return len(b) - row.bit_count()
