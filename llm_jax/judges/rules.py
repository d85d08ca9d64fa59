"""Judges that look at the text alone."""

import abc
import ast
from collections.abc import Iterator, Sequence
import dataclasses
import json
import re
from typing import Any, Literal
import warnings

from llm_jax.config import field
from llm_jax.contracts import Question, Verdict

_FENCED = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Rule(abc.ABC):
  """Scores each completion for itself."""

  @abc.abstractmethod
  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """Higher is better, and why, in a few words."""

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question."""
    for question in questions:
      found = [self.score(question, c) for c in question.completions]
      reason = "; ".join(f"{i}: {why}" for i, (_, why) in enumerate(found))
      yield Verdict(tuple(score for score, _ in found), reason=reason)


@dataclasses.dataclass(frozen=True)
class Length(Rule):
  """Best within two bounds; each unit beyond one costs a point."""

  least: int = field(1, "shortest length that costs nothing", low=0)
  most: int = field(120, "longest length that costs nothing", low=0)
  unit: Literal["characters", "words"] = field(
    "characters", "what a length counts"
  )

  def __post_init__(self) -> None:
    if self.least > self.most:
      raise ValueError(
        f"--judge.least={self.least}: more than --judge.most={self.most}"
      )

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """Minus the distance to the nearer bound; 0 between them."""
    del question
    text = completion.strip()
    size = len(text) if self.unit == "characters" else len(text.split())
    beyond = max(0, self.least - size) + max(0, size - self.most)
    return float(-beyond), f"{size} {self.unit}"


@dataclasses.dataclass(frozen=True)
class Pattern(Rule):
  r"""1 where a regular expression is found, else 0."""

  pattern: str = field(
    "", "regular expression (Python's) to be found; (?s), (?i) ... set flags"
  )
  whole: bool = field(False, "it must be the whole completion")

  def __post_init__(self) -> None:
    try:
      re.compile(self.pattern)
    except re.error as e:
      raise ValueError(
        f"--judge.pattern={self.pattern}: no regular expression: {e}"
      ) from e

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """1 or 0."""
    del question
    find = re.fullmatch if self.whole else re.search
    found = find(self.pattern, completion.strip()) is not None
    return float(found), "matches" if found else "does not match"


@dataclasses.dataclass(frozen=True)
class _Code:
  """Reads a completion as code."""

  fenced: bool = field(
    True, "judge what stands between ```, where anything does"
  )

  def read(self, completion: str) -> str:
    """What is judged of a completion."""
    if not self.fenced:
      return completion
    return "\n".join(_FENCED.findall(completion)) or completion.strip()


@dataclasses.dataclass(frozen=True)
class Python(_Code, Rule):
  """1 where a completion parses as Python, of the interpreter's version."""

  around: str = field(
    "{}", "what is parsed, with the completion where {} stands"
  )

  def __post_init__(self) -> None:
    if "{}" not in self.around:
      raise ValueError(
        f"--judge.around={self.around}: has no {{}} for the completion"
      )

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """1 or 0; without any code 0."""
    del question
    text = self.around.replace("{}", self.read(completion))
    try:
      with warnings.catch_warnings():  # such as of an unknown escape
        warnings.simplefilter("ignore")
        found = bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
      return 0.0, _line(e)
    return float(found), "parses" if found else "no code"


@dataclasses.dataclass(frozen=True)
class JSON(_Code, Rule):
  """1 where a completion is valid JSON (RFC 8259)."""

  def score(self, question: Question, completion: str) -> tuple[float, str]:
    """1 or 0."""
    del question
    text = self.read(completion)
    try:
      json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:
      return 0.0, _line(e)
    return 1.0, "valid"


def _refuse(name: str) -> Any:
  raise ValueError(f"{name} is no JSON")


def _line(error: BaseException) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0]
