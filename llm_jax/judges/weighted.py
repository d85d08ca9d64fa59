"""Several judges as one: a weighted sum of what they say."""

from collections.abc import Iterator, Sequence
import dataclasses
import math

from llm_jax.config import field
from llm_jax.contracts import Judge, Question, Verdict
from llm_jax.judges.endpoint import Endpoint
from llm_jax.judges.function import Function
from llm_jax.judges.reward import RewardModel
from llm_jax.judges.rubric import Rubric
from llm_jax.judges.rules import Length, Rule

Part = Rule | RewardModel | Rubric | Endpoint | Function


@dataclasses.dataclass(frozen=True)
class Sum:
  """What other judges say, added up; each of them is told, too."""

  parts: tuple[Part, ...] = (Length(),)
  weights: tuple[float, ...] = field((1.0,), "of each part")

  def __post_init__(self) -> None:
    if len(self.weights) != len(self.parts):
      raise ValueError(
        f"--judge.weights={','.join(map(str, self.weights))}: there are"
        f" {len(self.parts)} parts"
      )
    if not self.parts or not all(map(math.isfinite, self.weights)):
      raise ValueError(
        f"--judge.weights={','.join(map(str, self.weights))}: must be a finite"
        " number of each part, of which there is at least one"
      )


@dataclasses.dataclass(frozen=True)
class BySum:
  """The judge that adds others up."""

  judges: tuple[tuple[str, Judge], ...]  # with a name each
  weights: tuple[float, ...]

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question.

    Raises:
      ValueError: a judge that knows only an order, which cannot be added.
    """
    each = [judge(questions) for _, judge in self.judges]
    names = [name for name, _ in self.judges]
    for verdicts in zip(*each, strict=True):
      for name, v in zip(names, verdicts, strict=True):
        if v.ordinal:
          raise ValueError(f"--judge ({name}): only orders, which do not add")
      parts = tuple(zip(names, (v.scores for v in verdicts), strict=True))
      total = tuple(
        sum(w * s for w, s in zip(self.weights, row, strict=True))
        for row in zip(*(scores for _, scores in parts), strict=True)
      )
      said = "; ".join(
        f"{name}: {', '.join(f'{s:.4g}' for s in scores)}"
        for name, scores in parts
      )
      yield Verdict(total, reason=said, parts=parts)
