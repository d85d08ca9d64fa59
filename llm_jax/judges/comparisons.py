"""Every two completions of a prompt, both ways round.

Judges of two answers like the first, or the second, whatever it says (position
bias: Zheng et al. 2023, arXiv:2306.05685). So each comparison is made twice,
once with the answers swapped, and counts if it names the same winner in both;
else the two are a tie.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
from typing import NamedTuple

from llm_jax.contracts import Question, Verdict


class Two(NamedTuple):
  """Two answers to a question, in the order in which they are shown."""

  question: str
  first: str
  second: str


class Answer(NamedTuple):
  """Which of two is better."""

  better: int  # 1 = the first, -1 = the second, 0 = neither
  reason: str = ""


Compare = Callable[[Sequence[Two]], Iterator[Answer]]
"""Yields an answer for each two, in order."""


def judge(questions: Sequence[Question], compare: Compare) -> Iterator[Verdict]:
  """Yields a verdict for each question: ranks by wins less losses.

  Args:
    questions: any number of completions each.
    compare: asked about all K (K - 1) ordered pairs of each question.
  """
  asked = [list(_both_ways(q)) for q in questions]
  answers = compare([two for twos in asked for two in twos])
  for question, twos in zip(questions, asked, strict=True):
    yield _verdict(question, list(itertools.islice(answers, len(twos))))


def shown(messages: Sequence[tuple[str, str]]) -> str:
  """A prompt as one text; who speaks is named where several turns are."""
  if len(messages) == 1:
    return messages[0][1]
  return "\n\n".join(f"{role}: {content}" for role, content in messages)


def _both_ways(question: Question) -> Iterator[Two]:
  asked = shown(question.messages)
  for a, b in itertools.combinations(question.completions, 2):
    yield Two(asked, a, b)
    yield Two(asked, b, a)


def _verdict(question: Question, answers: list[Answer]) -> Verdict:
  count = len(question.completions)
  points, reasons = [0] * count, []
  twos = itertools.combinations(range(count), 2)
  for (i, j), there, back in zip(
    twos, answers[::2], answers[1::2], strict=True
  ):
    better = survivor(there, back)
    points[i] += better
    points[j] -= better
    if better:
      w, l = (i, j) if better > 0 else (j, i)
      why = f": {there.reason}" if there.reason else ""
      reasons.append(f"{w} over {l}{why}")
    else:
      same = there.better == back.better == 0
      why = "" if same else ", the order decides"
      reasons.append(f"{i} and {j} are a tie{why}")
  scores = [-sum(q > p for q in points) for p in points]
  return Verdict(tuple(map(float, scores)), True, "; ".join(reasons))


def survivor(there: Answer, back: Answer) -> int:
  """Who wins both ways round: 1 or -1, by the first order; 0 = a tie."""
  return there.better if there.better == -back.better else 0
