"""A reward model as a judge."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import itertools
import math

from llm_jax.config import field
from llm_jax.contracts import Question, Verdict

Messages = tuple[tuple[str, str], ...]
Rewards = Callable[[Sequence[tuple[Messages, str]]], Iterable[float]]
"""(prompt, completion) of each -> its reward, in order."""


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """The rewards of a trained run, or of a folder of the ecosystem."""

  run: str = field(
    "",
    "run folder of a reward model, or of a policy with implicit rewards; or"
    " hf:FOLDER, a reward model of the ecosystem",
  )
  normalised: bool = field(
    True, "with the gain and bias that a reward model ended its training with"
  )


@dataclasses.dataclass(frozen=True)
class ByReward:
  """The judge of a reward model."""

  rewards: Rewards

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question.

    Raises:
      ValueError: a reward that is not finite.
    """
    rows = [(q.messages, c) for q in questions for c in q.completions]
    found = iter(self.rewards(rows))
    for question in questions:
      size = len(question.completions)
      scores = tuple(map(float, itertools.islice(found, size)))
      if not all(map(math.isfinite, scores)):
        raise ValueError(f"--judge.run: the reward model says {scores}")
      yield Verdict(scores)
