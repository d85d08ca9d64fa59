"""A judge asked while training: each of several processes hears the same.

Scores may not be the same twice: of an endpoint, or of a function that was too
slow in one process alone. So the first process is asked, and the others hear of
it; a judge that is a model on the mesh needs all of them.
"""

from collections.abc import Callable, Sequence
import json
from typing import Any

import jax

from llm_jax import host
from llm_jax.contracts import Judge, Question, Verdict
from llm_jax.experiment import Judges
from llm_jax.judges.reward import RewardModel
from llm_jax.judges.rubric import Rubric
from llm_jax.judges.weighted import Sum


def asker(
  judge: Judge, settings: Judges
) -> Callable[[Sequence[Question]], list[Verdict]]:
  """Questions -> verdicts, which are those of the first process.

  Args:
    judge: as it was made of its settings.
    settings: of the judge.

  Raises:
    host.SharedError: of the result: it failed in the first of several.
    ValueError: of the result: it failed in the only process.
  """
  on_mesh = _is_on_mesh(settings)

  def ask(questions: Sequence[Question]) -> list[Verdict]:
    if jax.process_count() == 1:
      return list(judge(questions))
    said: dict[str, Any] = {}
    if on_mesh or jax.process_index() == 0:
      try:
        said = {"verdicts": [v._asdict() for v in judge(questions)]}
      except ValueError as e:
        said = {"error": str(e)}
    said = json.loads(host.first_says(json.dumps(said)))
    if "error" in said:
      raise host.SharedError(said["error"])
    return [_verdict(**v) for v in said["verdicts"]]

  return ask


def _is_on_mesh(settings: Judges) -> bool:
  """Whether a model that judges is cut over the devices of all processes."""
  if isinstance(settings, Sum):
    return any(map(_is_on_mesh, settings.parts))
  return isinstance(settings, RewardModel | Rubric)


def _verdict(scores: list, parts: list, **rest: Any) -> Verdict:
  named = tuple((name, tuple(its)) for name, its in parts)
  return Verdict(tuple(scores), parts=named, **rest)
