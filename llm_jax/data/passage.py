"""One form for every question about a text."""

import dataclasses
import json

from llm_jax.data import splits


@dataclasses.dataclass(frozen=True)
class Passage:
  """A question, a text, and where the text answers it.

  Attributes:
    id: of the question, told in predictions.
    question: about the text.
    context: the text.
    answers: (text, the character where it begins) of each; none = the text
      has no answer.
    split: that it belongs to; empty = by a hash of the text, so that one text
      is never in two.
  """

  id: str
  question: str
  context: str
  answers: tuple[tuple[str, int], ...] = ()
  split: str = ""

  def __post_init__(self) -> None:
    if not self.context.strip():
      raise ValueError(f"question {self.id}: its text is empty")
    if not self.question.strip():
      raise ValueError(f"question {self.id}: it is empty")
    for text, at in self.answers:
      if not text.strip():
        raise ValueError(f"question {self.id}: an answer is empty")
      found = self.context[at : at + len(text)] if at >= 0 else ""
      if found != text:
        raise ValueError(
          f"question {self.id}: its answer {text!r:.60} does not stand at"
          f" character {at} of its text, where {found!r:.60} is"
        )

  def of(self, shares: splits.Shares) -> str:
    """The split that it is in."""
    return self.split or shares.of(self.context)

  @property
  def truths(self) -> list[str]:
    """Answers without where they stand."""
    return [text for text, _ in self.answers]

  def to_json(self) -> str:
    """One line of text."""
    return json.dumps(dataclasses.asdict(self))


def from_json(line: str) -> Passage:
  """The inverse of `Passage.to_json`."""
  found = json.loads(line)
  answers = tuple((text, at) for text, at in found.pop("answers"))
  return Passage(answers=answers, **found)
