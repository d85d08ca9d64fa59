"""How many questions are answered in the very words of the reference."""

from collections.abc import Iterable, Sequence


def matches(answer: str, reference: str) -> bool:
  """Whether two texts are equal, but for space around them."""
  return answer.strip() == reference.strip()


def evaluate(
  answers: Iterable[str], references: Iterable[str]
) -> dict[str, float]:
  """Share of equal pairs.

  Returns:
    exact_match  share of answers that equal their reference
    questions    how many were asked

  Raises:
    ValueError: there is none, or one has no partner.
  """
  found = [matches(a, r) for a, r in zip(answers, references, strict=True)]
  if not found:
    raise ValueError("there is no question to evaluate on")
  return {
    "exact_match": sum(found) / len(found),
    "questions": float(len(found)),
  }


def by_task(
  answers: Sequence[str], references: Sequence[str], tasks: Sequence[str]
) -> dict[str, dict[str, float]]:
  """The same for the questions of each named task; {} where all are of one."""
  if len(set(tasks)) < 2:
    return {}
  pairs = list(zip(answers, references, tasks, strict=True))
  return {
    task: evaluate(
      [a for a, _, its in pairs if its == task],
      [r for _, r, its in pairs if its == task],
    )
    for task in sorted(filter(None, set(tasks)))
  }
