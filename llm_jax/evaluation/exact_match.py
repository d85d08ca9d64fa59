"""How many questions are answered in the very words of the reference."""

from collections.abc import Iterable


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
