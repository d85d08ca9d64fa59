"""Answers to questions about a text, as the scripts of SQuAD measure them.

Rajpurkar et al. 2016, arXiv:1606.05250 (v1.1) and 2018, arXiv:1806.03822 (v2.0,
where "" answers a question that has no answer).
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import re
import string
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation)


def normalised(text: str) -> str:
  """Lower case, without ASCII punctuation, articles and doubled space."""
  kept = "".join(c for c in text.lower() if c not in _PUNCTUATION)
  return " ".join(_ARTICLES.sub(" ", kept).split())


def exact(answer: str, truth: str) -> float:
  """1 where both are normalised to the same, else 0."""
  return float(normalised(answer) == normalised(truth))


def f1(answer: str, truth: str) -> float:
  """Harmonic mean of precision and recall of normalised words.

  Each counts as often as both have it. Where one has no word: 1 if neither
  has, else 0.
  """
  said, true = normalised(answer).split(), normalised(truth).split()
  if not said or not true:
    return float(said == true)
  both = sum((collections.Counter(said) & collections.Counter(true)).values())
  return 2 * both / (len(said) + len(true))


class Score(NamedTuple):
  """Of the answer to one question, beside the truth nearest to it."""

  exact_match: float
  f1: float


def score(answer: str, truths: Sequence[str]) -> Score:
  """The largest of each over all truths; truths that normalise to "" are none.

  A question without a truth is answered by "" alone.
  """
  meant = [t for t in truths if normalised(t)] or [""]
  return Score(
    max(exact(answer, t) for t in meant), max(f1(answer, t) for t in meant)
  )


def evaluate(
  answers: Mapping[str, str], truths: Mapping[str, Sequence[str]]
) -> dict[str, float]:
  """Means over questions, by id.

  Returns:
    exact_match, f1  in [0, 1]
    questions        how many
    and where some have no answer, the same of those that have one
    (`has_answer_`) and of those that have none (`no_answer_`)

  Raises:
    ValueError: no question, or one that is not answered.
  """
  scores = _scored(answers, truths)
  has = {i: has_answer(t) for i, t in truths.items()}
  found = _means(scores.values(), "")
  if not all(has.values()):
    for name, which in (("has_answer_", True), ("no_answer_", False)):
      some = [its for i, its in scores.items() if has[i] is which]
      found |= _means(some, name) if some else {}
  return found


def has_answer(truths: Sequence[str]) -> bool:
  """Whether any truth normalises to some text."""
  return any(map(normalised, truths))


def best_thresholds(
  answers: Mapping[str, str],
  none_over: Mapping[str, float],
  truths: Mapping[str, Sequence[str]],
) -> dict[str, float]:
  """What the best threshold on these questions would give.

  Args:
    answers: by id, the best that is some text.
    none_over: by how much "no answer" scores more than it; told is "" where
      that is more than the threshold.
    truths: by id.

  Returns:
    best_exact_match, best_f1, and the same with _threshold, the least of those
    that give them; minus infinity where it is best to tell nothing
  """
  scores = _scored(answers, truths)
  order = sorted(truths, key=lambda i: none_over[i])
  silent = sum(not has_answer(t) for t in truths.values())
  out: dict[str, float] = {}
  for name in Score._fields:
    total = best = float(silent)
    at = -float("inf")
    for n, i in enumerate(order):
      told = getattr(scores[i], name)
      total += told if has_answer(truths[i]) else told - 1
      # Those with the same number are told together.
      last = n + 1 == len(order)
      if (last or none_over[order[n + 1]] > none_over[i]) and total > best:
        best, at = total, none_over[i]
    out |= {f"best_{name}": best / len(order), f"best_{name}_threshold": at}
  return out


def _scored(
  answers: Mapping[str, str], truths: Mapping[str, Sequence[str]]
) -> dict[str, Score]:
  if not truths:
    raise ValueError("there is no question to evaluate on")
  lacking = [i for i in truths if i not in answers]
  if lacking:
    raise ValueError(
      f"{len(lacking)} of {len(truths)} questions are not answered, the first"
      f" being {lacking[0]}"
    )
  return {i: score(answers[i], t) for i, t in truths.items()}


def _means(scores: Iterable[Score], name: str) -> dict[str, float]:
  found = list(scores)
  mean = lambda field: sum(getattr(s, field) for s in found) / len(found)
  out = {f"{name}{field}": mean(field) for field in Score._fields}
  return out | {f"{name}questions": float(len(found))}
