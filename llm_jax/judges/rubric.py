"""A language model that judges by a rubric, with one of two letters."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses

from llm_jax.config import field
from llm_jax.contracts import Question, Verdict
from llm_jax.judges import comparisons
from llm_jax.judges.comparisons import Answer, Two

Likelihood = Callable[[Sequence[tuple[str, str]]], Iterable[float]]
"""(question, answer) of each -> log p(answer | question), nats, in order."""
LETTERS = ("A", "B")


@dataclasses.dataclass(frozen=True)
class Rubric:
  """The better answer's letter is the likelier one, both ways round."""

  run: str | None = field(
    None, "run folder of the model that judges; none = the run itself"
  )
  rubric: str = field(
    "Which of two answers to a question is more correct, more helpful, and no"
    " longer than it has to be?",
    "what the model is told to judge by",
  )
  margin: float = field(
    0.0, "nats by which a letter must be likelier, or neither is", low=0
  )


@dataclasses.dataclass(frozen=True)
class ByRubric:
  """The judge of a rubric and a model's likelihoods."""

  settings: Rubric
  likelihood: Likelihood

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question."""
    return comparisons.judge(questions, self._compare)

  def _compare(self, twos: Sequence[Two]) -> Iterator[Answer]:
    asked = [asking(self.settings.rubric, two) for two in twos]
    letters = [(text, letter) for text in asked for letter in LETTERS]
    found = iter(self.likelihood(letters))
    for logp_a, logp_b in zip(found, found, strict=True):
      more = logp_a - logp_b
      better = (more > self.settings.margin) - (more < -self.settings.margin)
      yield Answer(better, f"{abs(more):.3f} nats")


def asking(rubric: str, two: Two) -> str:
  """What the model is asked; a letter answers it."""
  return (
    f"{rubric}\n\nQuestion:\n{two.question}\n\n"
    f"Answer {LETTERS[0]}:\n{two.first}\n\n"
    f"Answer {LETTERS[1]}:\n{two.second}\n\n"
    f"The better answer, {LETTERS[0]} or {LETTERS[1]}:"
  )
