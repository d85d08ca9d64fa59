"""Answers that a run draws to questions, and what they are worth.

Dimension key: P questions; N answers drawn to each.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple
import zlib

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import asking, axes, judging, state_plan
from llm_jax.contracts import (
  Batch,
  Judge,
  Question,
  Roles,
  Tokenizer,
  Verdict,
)
from llm_jax.data.questions import Example
from llm_jax.evaluation import best_of, divergence
from llm_jax.experiment import DataSettings, Experiment
from llm_jax.generation.greedy import Answerer
from llm_jax.judges import comparisons
from llm_jax.model import Model
from llm_jax.ops.sampling import Sampler
from llm_jax.reporting.progress import progress, say

SHOWN = 8  # answers that are kept to be read
_AT_ONCE = 64  # questions that a judge is asked together

Ids = list[int]


class Judging(NamedTuple):
  """Who scores, and how many answers to each question."""

  size: int  # N
  judges: dict[str, Judge]  # "score" chooses the best one
  about: dict[str, str]  # what each is, in words


def judges(
  experiment: Experiment, folder: pathlib.Path, step: int | None, mesh: Mesh
) -> Judging | None:
  """The judges of `evaluate`, loaded; None where it asks none."""
  if not experiment.validation.best_of:
    return None
  found: dict[str, Judge] = {}
  about: dict[str, str] = {}
  for judge in (experiment.judge, *experiment.judges):
    kind = type(judge).__name__
    name = f"{kind.lower()}_score" if found else "score"
    while name in found:
      name += "_"
    asked = dataclasses.replace(experiment, judge=judge)
    found[name], _ = judging.make(asked, folder, step, mesh)
    run = getattr(judge, "run", None)
    about[name] = f"{kind} ({run})" if run else kind
  return Judging(experiment.validation.best_of, found, about)


class Drawing:
  """Draws from a run's policy.

  Args:
    experiment: whose policy it is.
    model: its decoder.
    tokenizer: text <-> ids.
    roles: "policy", and "reference" where KL from it is asked for.
  """

  def __init__(
    self,
    experiment: Experiment,
    model: Model,
    tokenizer: Tokenizer,
    roles: Roles,
  ):
    self._experiment, self._model = experiment, model
    self._tokenizer, self._roles = tokenizer, roles
    self._room = model.shape.max_length - experiment.peft.places
    self._limit = experiment.samples.max_new_tokens
    self._temperature = experiment.validation.temperature

  def measure(
    self,
    name: str,
    where: DataSettings,
    examples: Sequence[Example],
    judging: Judging | None,
  ) -> tuple[dict[str, float], dict[str, Any]]:
    """What drawn answers say of the policy.

    Args:
      name: of the data.
      where: the data that the questions are of.
      examples: the questions; those without room for an answer are left out.
      judging: who scores; None = nobody.

    Returns:
      Measures: as `divergence.summary` where there is a reference, and the
      mean score by each judge; and, to be written down, "asked", which tells
      whether others were asked the same, "best_of" and some "answers". Nothing
      where no question has room.
    """
    apart = self._model.shape.reads_sources
    room = self._room - (0 if apart else self._limit)
    kept = [e for e in examples if 1 + len(e.prompt_ids) <= room]
    if len(kept) < len(examples):
      say(
        f"{name}: {len(examples) - len(kept)} of {len(examples)} questions"
        f" leave no room for --samples.max_new_tokens={self._limit} and are"
        " left out"
      )
    if not kept:
      return {}, {}
    drawn_PN = self._draw(name, where, kept, judging.size if judging else 1)
    out: dict[str, float] = {}
    if "reference" in self._roles:
      out |= self._kl(kept, [its[0] for its in drawn_PN])
    text = asking.texter(where, self._tokenizer)
    texts_PN = [[text(ids) for ids in its] for its in drawn_PN]
    said: dict[str, Any] = {"asked": self._asked(kept)}
    scores: dict[str, np.ndarray] = {}
    if judging:
      scores = _scores(name, judging, kept, texts_PN)
      first, *others = scores
      curve = best_of.curve(scores[first], {n: scores[n] for n in others})
      out |= {n: v for n, v in curve[0].items() if n not in ("n", "kl")}
      said["best_of"] = {"judges": judging.about, "curve": curve}
    said["answers"] = [
      {
        "prompt": comparisons.shown(e.conversation.question.messages),
        "reference": e.reference,
        **_answer(its, {n: score_PN[i] for n, score_PN in scores.items()}),
      }
      for i, (e, its) in enumerate(
        zip(kept[:SHOWN], texts_PN[:SHOWN], strict=True)
      )
    ]
    return out, said

  def _asked(self, examples: list[Example]) -> dict[str, Any]:
    """What was asked, and within which limit: the same of runs to compare."""
    told = [(e.conversation.question.messages, e.reference) for e in examples]
    return {
      "questions": len(examples),
      "checksum": zlib.crc32(json.dumps(told).encode()),
      "max_new_tokens": self._limit,
      "temperature": self._temperature,
    }

  def _draw(
    self, name: str, where: DataSettings, examples: list[Example], size: int
  ) -> list[list[Ids]]:
    """Ids of answers, PN, with what ends them; the first do not depend on N."""
    sample = Answerer(
      self._tokenizer,
      self._model.decode,
      self._model.open_cache,
      self._room,
      self._experiment.batch_size,
      asking.stop_ids(where, self._tokenizer),
      Sampler(self._temperature),
      self._experiment.seed,
      apart=self._model.shape.reads_sources,
    )
    prompts = [e.prompt_ids for e in examples]
    rows = sample(self._roles["policy"], prompts * size, self._limit, True)
    bar = progress(rows, len(prompts) * size, f"drawing answers to {name}")
    drawn = list(bar)
    return [drawn[i :: len(prompts)] for i in range(len(prompts))]

  def _kl(
    self, examples: list[Example], completions: list[Ids]
  ) -> dict[str, float]:
    """KL from the reference, by one answer to each question."""
    prompts = [e.prompt_ids for e in examples]
    rows = self._experiment.batch_size
    forward = state_plan.forward(self._model, self._temperature)

    @jax.jit
    def ratio(roles: Roles, batch: Batch) -> jax.Array:
      return axes.constrain(divergence.log_ratio(forward, roles, batch), "_")

    ratios: list[float] = []
    length = 1 + max(map(len, prompts)) + self._limit
    for at in range(0, len(prompts), rows):
      here = slice(at, at + rows)
      batch: Any = asking.scored(
        self._model.shape,
        self._tokenizer,
        prompts[here],
        completions[here],
        rows,
        length,
      )
      found = jax.device_get(ratio(self._roles, batch))
      ratios += found[: len(prompts[here])].tolist()
    return divergence.summary(ratios)


def _answer(texts: list[str], scores: dict[str, np.ndarray]) -> dict[str, Any]:
  """The first of several answers, and the one that is chosen of them all."""
  tell = lambda at: {
    "text": texts[at],
    **{name: float(score_N[at]) for name, score_N in scores.items()},
  }
  if len(texts) < 2:
    return tell(0)
  first = next(iter(scores.values()))
  best = tell(int(first.argmax()))
  return tell(0) | {"best": {"of": len(texts), **best}}


def _scores(
  name: str,
  judging: Judging,
  examples: list[Example],
  texts_PN: list[list[str]],
) -> dict[str, np.ndarray]:
  """[P, N] by each judge; an answer that is drawn twice is judged once."""
  questions = [
    Question(
      e.conversation.question.messages, tuple(dict.fromkeys(its)), e.reference
    )
    for e, its in zip(examples, texts_PN, strict=True)
  ]
  out = {}
  for key, judge in judging.judges.items():
    rows = []
    bar = progress(
      _verdicts(judge, questions), len(questions), f"judging {name}"
    )
    for question, verdict, its in zip(questions, bar, texts_PN, strict=True):
      if verdict.ordinal:
        raise ValueError(
          f"--judge ({judging.about[key]}): says which answer is better and not"
          " how good it is, and the best of n is about scores"
        )
      known = dict(zip(question.completions, verdict.scores, strict=True))
      rows.append([known[text] for text in its])
    out[key] = np.asarray(rows, np.float64)
  return out


def _verdicts(judge: Judge, questions: list[Question]) -> Iterator[Verdict]:
  """Of some at a time, so that a bar moves."""
  for at in range(0, len(questions), _AT_ONCE):
    yield from judge(questions[at : at + _AT_ONCE])
