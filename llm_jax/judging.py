"""Judges of an experiment: their models loaded, their addresses connected."""

from collections.abc import Iterator, Sequence
import json
import pathlib
from typing import Any
import zlib

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import (
  asking,
  axes,
  checks,
  claim,
  config,
  importing,
  normalising,
  state_plan,
  storage,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Judge, Tokenizer
from llm_jax.data import chat
from llm_jax.data.conversation import Message
from llm_jax.data.examples import Examples
from llm_jax.experiment import Asked, Experiment
from llm_jax.judges.endpoint import ByEndpoint, Endpoint
from llm_jax.judges.function import ByFunction, Function
from llm_jax.judges.reward import ByReward, Messages, RewardModel
from llm_jax.judges.rubric import ByRubric, Rubric
from llm_jax.judges.weighted import BySum, Sum
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.ranking import Ranking
from llm_jax.ops.checksum import checksums
from llm_jax.reporting.progress import waiting
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers

Row = tuple[list[int], list[int]]  # ids of a prompt, and of its completion


def make(
  experiment: Experiment, folder: pathlib.Path, step: int | None, mesh: Mesh
) -> tuple[Judge, dict[str, Any]]:
  """The judge of an experiment, and what decides its verdicts.

  Args:
    experiment: of the run that is labelled, and the judge.
    folder: of that run; it may be the judge, too.
    step: of its checkpoint.
    mesh: where a model that judges is put.

  Raises:
    ValueError: a run that cannot judge.
  """
  return _make(experiment.judge, experiment, folder, step, mesh)


def check_room(experiment: Experiment, tokenizer: Tokenizer) -> None:
  """ValueError where a reward model cannot read what is to be drawn.

  One with another tokenizer reads other tokens, of which nobody knows before
  how many there are.
  """
  drawn, judge = experiment.rollouts, experiment.judge
  longest = drawn.max_prompt + drawn.max_new_tokens
  for part in judge.parts if isinstance(judge, Sum) else (judge,):
    if not isinstance(part, RewardModel):
      continue
    if importing.is_folder(part.run):
      room = importing.model(
        part.run, TransformerConfig(), flag="judge.run"
      ).max_length
      theirs = importing.tokenizer(part.run, "judge.run").fingerprint
    else:
      folder = storage.path(part.run, "judge.run")
      its = claim.settings(folder)
      room = its.model.max_length - its.peft.places
      theirs = tokenizers.load(folder / "tokenizer").fingerprint
    if theirs == tokenizer.fingerprint and longest > room:
      raise ValueError(
        f"--judge.run={part.run}: reads {room} tokens, which is less than"
        f" --rollouts.max_prompt={drawn.max_prompt} and"
        f" --rollouts.max_new_tokens={drawn.max_new_tokens} together"
      )


def _make(
  settings: Any,
  experiment: Experiment,
  folder: pathlib.Path,
  step: int | None,
  mesh: Mesh,
) -> tuple[Judge, dict[str, Any]]:
  about = config.to_json(settings)
  if isinstance(settings, Sum):
    made = [
      _make(part, experiment, folder, step, mesh) for part in settings.parts
    ]
    names = _names([type(part).__name__ for part in settings.parts])
    judges = tuple(zip(names, (judge for judge, _ in made), strict=True))
    parts = dict(zip(names, (its for _, its in made), strict=True))
    return BySum(judges, settings.weights), about | {"parts": parts}
  if isinstance(settings, Function):
    judge = ByFunction(settings)
    return judge, judge.about | {"class": about["class"]}
  if isinstance(settings, Endpoint):
    decisive = {k: v for k, v in about.items() if k in settings.decisive}
    return ByEndpoint(settings), decisive | {"class": about["class"]}
  if not isinstance(settings, RewardModel | Rubric):
    return settings, about
  if importing.is_folder(settings.run):
    return _of_folder(settings, experiment, mesh)
  if settings.run is not None:
    if not settings.run:
      raise ValueError("--judge.run: no run folder of a reward model given")
    folder, step = storage.path(settings.run, "judge.run"), None
  try:
    its = claim.settings(folder)
    checks.checkpoint(folder, step)
    with waiting("loading the judge"):
      model = _Model(its, folder, step, mesh, experiment.batch_size)
  except ValueError as e:
    if settings.run is None:
      raise
    said = str(e).removeprefix(f"--workdir={folder}: ")
    meant = importing.meant(folder, "judge.run")
    raise ValueError(f"--judge.run={settings.run}: {said}{meant}") from e
  about |= {"run": Store(folder / "checkpoints").checksum(model.step)}
  if isinstance(settings, RewardModel):
    line = normalising.Line()
    if settings.normalised:
      try:
        line = normalising.of(its, folder, model.step)
      except ValueError as e:
        raise ValueError(
          f"--judge.run={folder}: {e}; --judge.normalised=false takes them as"
          " they are"
        ) from e
    model.check_rewards()

    def rewards(asked: Sequence[tuple[Messages, str]]) -> Iterator[float]:
      return (line(reward) for reward in model.rewards(asked))

    return ByReward(rewards), about | line._asdict()
  return ByRubric(settings, model.likelihood), about


def _of_folder(
  settings: RewardModel | Rubric, experiment: Experiment, mesh: Mesh
) -> tuple[Judge, dict[str, Any]]:
  """The reward model of a folder of the ecosystem, as it is."""
  given = settings.run or ""
  if isinstance(settings, Rubric):
    raise ValueError(
      f"--judge.run={given}: a rubric is read by a run; a folder of the"
      " ecosystem judges as a reward model"
    )
  try:
    with waiting("loading the judge"):
      model = _Folder(given, experiment, mesh)
  except ValueError as e:
    said = str(e)
    for flag in ("init_from", "judge.run"):
      said = said.removeprefix(f"--{flag}={given}: ")
    raise ValueError(f"--judge.run={given}: {said}") from e
  judge = ByReward(model.rewards)
  return judge, config.to_json(settings) | {"run": model.checksum()}


def _names(names: list[str]) -> list[str]:
  """The same, with a number where one comes twice."""
  return [
    name if names.count(name) == 1 else f"{name}{names[: i + 1].count(name)}"
    for i, name in enumerate(names)
  ]


class _Model:
  """A run that scores rows of text."""

  def __init__(
    self,
    experiment: Experiment,
    folder: pathlib.Path,
    step: int | None,
    mesh: Mesh,
    batch_size: int,
  ):
    self._experiment, self._mesh = experiment, mesh
    self._name = f"--judge.run={folder}"
    self._tokenizer = importing.tokenizer_of(experiment, folder)
    model = model_lib.make(experiment, self._tokenizer)
    self._shape = model.shape
    self._room = model.shape.max_length - experiment.peft.places
    objective = experiment.objective
    plan = state_plan.make(
      experiment, model, mesh, reference=objective.needs_reference
    )
    self.step, self._roles = weights.load(experiment, plan, mesh, folder, step)
    forward = state_plan.forward(model)
    self._rows = batch_size * (1 + batch_size % 2)  # some read pairs of rows

    def logp(roles: Any, batch: Batch) -> jax.Array:
      scores = forward["policy"](roles["policy"], batch)
      return axes.constrain((scores.logp_BT * batch["mask_BT"]).sum(-1), "_")

    def rewards(roles: Any, batch: Batch) -> jax.Array | None:
      found = objective.rewards(forward, roles, batch)
      return None if found is None else axes.constrain(found, "_")

    self._logp, self._rewards = jax.jit(logp), jax.jit(rewards)

  def check_rewards(self) -> None:
    """ValueError where the run knows no rewards of completions."""
    if isinstance(self._experiment.data, Examples):
      raise ValueError(
        f"{self._name}: trained on texts alone (Examples), read in another way"
        " than an answer to a prompt; Preferences with --data.rows=classes has"
        " completions"
      )
    batch = self._batch([([0], [0])])
    with jax.set_mesh(self._mesh):
      if jax.eval_shape(self._rewards, self._roles, batch) is None:
        kind = type(self._experiment.objective).__name__
        raise ValueError(
          f"{self._name}: trained with {kind}, which has no rewards"
        )

  def likelihood(self, asked: Sequence[tuple[str, str]]) -> Iterator[float]:
    """Log p(answer | question) of each, nats."""
    encode = asking.encoder(self._experiment.data, self._tokenizer)
    rows = [
      (list(encode(question)), self._tokenizer.encode(answer))
      for question, answer in asked
    ]
    return self._each(self._logp, rows)

  def rewards(self, asked: Sequence[tuple[Messages, str]]) -> Iterator[float]:
    """The reward of each (prompt, completion)."""
    return self._each(self._rewards, [self._whole(*a) for a in asked])

  def _whole(self, messages: Messages, completion: str) -> Row:
    """A completion as it stood in training, what ends it included."""
    where, tokenizer = self._experiment.data, self._tokenizer
    prompt = tuple(Message(*m) for m in messages)
    if not isinstance(where, Asked):
      text = "\n".join(m.content for m in prompt)
      ids = [*tokenizer.encode(completion), tokenizer.eos_id]
      return tokenizer.encode(text), ids
    template = chat.Template(where.template)
    answer = Message("assistant", completion)
    pieces = [template.pieces(prompt, True), template.pieces((*prompt, answer))]
    begin, whole = chat.encode(pieces, tokenizer)
    n = len(begin.ids)
    end = 1 + int(np.flatnonzero(whole.trained)[-1])
    return begin.ids, whole.ids[n:end]

  def _each(self, compiled: Any, rows: Sequence[Row]) -> Iterator[float]:
    by_width: dict[int, list[int]] = {}
    for i, (prompt, completion) in enumerate(rows):
      size = asking.width(len(prompt) + len(completion))
      by_width.setdefault(size, []).append(i)
    out = np.zeros(len(rows))
    for alike in by_width.values():
      for at in range(0, len(alike), self._rows):
        here = alike[at : at + self._rows]
        with jax.set_mesh(self._mesh):
          batch = self._batch([rows[i] for i in here])
          found = jax.device_get(compiled(self._roles, batch))
        out[here] = found[: len(here)]
    yield from out.tolist()

  def _batch(self, rows: Sequence[Row]) -> Batch:
    room = max if self._shape.reads_sources else sum
    longest = max(room(map(len, row)) for row in rows)
    if longest > self._room:
      raise ValueError(
        f"{self._name}: a prompt and its completion of {longest} tokens are"
        f" longer than the {self._room} that the judge reads"
      )
    length = min(asking.width(longest), self._room)
    return mesh_lib.place_whole(self._laid_out(rows, length), self._mesh)

  def _laid_out(self, rows: Sequence[Row], length: int) -> Batch:
    """Prompts with completions, and what of them is asked about."""
    prompts, completions = zip(*rows, strict=True)
    return asking.scored(
      self._shape, self._tokenizer, prompts, completions, self._rows, length
    )


class _Folder(_Model):
  """A folder of the ecosystem, which reads a conversation to its last token.

  Its template says what a conversation is, all special tokens included; a run
  of ours does not read the token that ends one.
  """

  def __init__(self, given: str, experiment: Experiment, mesh: Mesh):
    plain = TransformerConfig(dtype=experiment.model.dtype)
    shape = importing.model(given, plain)
    its = Experiment(
      model=shape,
      objective=Ranking(),
      init_from=given,
      mesh=experiment.mesh,
    )
    if importing.speaks_of(given) not in ("", "text"):
      raise ValueError(
        f"says numbers of a {importing.speaks_of(given)}; a reward model, of a"
        " text"
      )
    if shape.outputs != 1:
      raise ValueError(
        f"says {shape.outputs} numbers of a text; a reward model says 1"
      )
    self._reads_first = shape.sees == "all"  # an encoder
    self._template = chat.Template(given, "--judge.run")
    super().__init__(
      its, pathlib.Path(given), None, mesh, experiment.batch_size
    )

  def checksum(self) -> int:
    """A number that changes with any weight."""
    return zlib.crc32(json.dumps(checksums(self._roles)).encode())

  def _whole(self, messages: Messages, completion: str) -> Row:
    """All ids of a conversation."""
    said = (*(Message(*m) for m in messages), Message("assistant", completion))
    pieces = self._template.pieces(said)
    (found,) = chat.encode([pieces], self._tokenizer)
    begins = chat.begins(pieces, self._tokenizer)
    return [self._tokenizer.start_id] * begins + found.ids, []

  def _laid_out(self, rows: Sequence[Row], length: int) -> Batch:
    """Ids as they are, and where the reward is read."""
    tokens_BT = np.zeros((self._rows, length), np.int32)
    sizes_B1 = np.zeros((self._rows, 1), int)
    for i, (ids, _) in enumerate(rows):
      tokens_BT[i, : len(ids)] = ids
      sizes_B1[i] = len(ids)
    places_T = np.arange(length)
    at_B1 = 0 if self._reads_first else sizes_B1 - 1
    return {
      "tokens_BT": tokens_BT,
      "target_BT": tokens_BT,
      "segment_BT": (places_T < sizes_B1).astype(np.int32),
      "mask_BT": (places_T == at_B1) & (sizes_B1 > 0),
    }
