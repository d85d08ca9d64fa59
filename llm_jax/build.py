"""Experiment -> Run: the one place where the rooms meet."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import sys
from typing import Any
import uuid

import jax
from jax.sharding import Mesh

from llm_jax import (
  asking,
  checks,
  cuts,
  host,
  importing,
  measuring,
  naming,
  normalising,
  precomputing,
  reinforcing,
  self_play,
  state_plan,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import (
  Batch,
  Evaluator,
  Hook,
  Share,
  Source,
  Tokenizer,
)
from llm_jax.data.arrays import Arrays, Loaded
from llm_jax.data.exampled import Exampled
from llm_jax.data.instructions import Instructed
from llm_jax.data.marked import Marked
from llm_jax.data.preferences import Preferences
from llm_jax.data.preferred import Preferred
from llm_jax.data.text import Tokenised
from llm_jax.experiment import DataSettings, Experiment
from llm_jax.mixing import Mixing
from llm_jax.model import Model
from llm_jax.models import sizing
from llm_jax.on_policy import OnPolicy
from llm_jax.reporting import files, progress
from llm_jax.reporting import hooks as reporting
from llm_jax.saving import Save
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers
from llm_jax.training import hooks as training
from llm_jax.training.state import TrainState
from llm_jax.training.watchdog import Watch

Told = Exampled | Marked
Tokens = Tokenised | Instructed | Preferred | Told | Loaded


@dataclasses.dataclass(frozen=True)
class Data:
  """Text as ids, and what turned it into ids."""

  tokenizer: Tokenizer
  tokens: Tokens


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything that a training loop needs."""

  state: TrainState
  step: Callable[[TrainState, Batch], tuple]
  source: Source
  hooks: list[Hook]
  save: Save
  store: Store
  metrics: reporting.Metrics
  normalise: Callable[[TrainState], None]  # once it is trained and saved
  notes: tuple[str, ...]  # what was left out of the data, or done to them


def data(experiment: Experiment, folder: pathlib.Path) -> Data:
  """Prepares text and tokenizer; finds both again on the next start."""
  where, home = experiment.data, folder / "tokenizer"
  if Store(folder / "checkpoints").steps():
    tokenizers.load(home)  # weights without their tokenizer are worth nothing
  elif importing.is_folder(experiment.init_from):
    assert experiment.init_from is not None
    importing.adopt_tokenizer(experiment.init_from, home)
  elif experiment.init_from:
    tokenizers.copy(weights.origin(experiment.init_from) / "tokenizer", home)
  if isinstance(where, Arrays):
    tokenizer = tokenizers.obtain(experiment.tokenizer, lambda: iter(()), home)
    return Data(tokenizer, where.load())
  corpus = where.prepare(progress.progress)
  with progress.waiting("tokenizer"):
    tokenizer = tokenizers.obtain(
      experiment.tokenizer, lambda: corpus.texts("train"), home
    )
  return Data(tokenizer, _tokens(corpus, tokenizer))


def tokens(where: DataSettings, tokenizer: Tokenizer) -> Tokens:
  """Data as ids of a tokenizer that there is already."""
  if isinstance(where, Arrays):
    return where.load()
  return _tokens(where.prepare(progress.progress), tokenizer)


def _tokens(corpus: Any, tokenizer: Tokenizer) -> Tokens:
  found: Tokens = corpus.tokenise(tokenizer, progress.progress)
  for note in getattr(found, "notes", ()):
    progress.say(note)
  return found


def watch(experiment: Experiment, folder: pathlib.Path) -> Watch:
  """What minds the time, in a folder where all processes write."""
  slow = experiment.draws or experiment.self_play.max_new_tokens
  return Watch(
    experiment.watchdog,
    (jax.process_index(), jax.process_count()),
    host.first_says(uuid.uuid4().hex),
    folder,
    files.write_json,
    files.read_json,
    slow=("batch",) if slow else (),  # it draws
  )


def run(experiment: Experiment, folder: pathlib.Path, mesh: Mesh) -> Run:
  """Loads or makes everything; the caller runs the loop."""
  share = cuts.share(experiment, mesh)
  made = data(experiment, folder)
  host.check_same(
    f"{made.tokenizer.fingerprint} {made.tokens.identity}", "--data: the text"
  )
  if isinstance(made.tokens, Told):
    naming.keep(experiment, made.tokens, folder)
  checks.one_answer(experiment, made.tokens)
  the_model = model_lib.make(experiment, made.tokenizer)
  checks.starts(experiment, the_model.shape, made.tokenizer)
  if not isinstance(made.tokens, Told):  # of which nothing is written
    checks.first(the_model.shape)
  if experiment.samples.every:  # too long is told now, not at the first one
    checks.prompts(
      experiment,
      the_model.shape,
      asking.encoder(experiment.data, made.tokenizer),
    )
  encode, asks = made.tokenizer.encode, experiment.objective.needs_reference
  if experiment.reference == "once" and asks:
    assert isinstance(made.tokens, Preferred)  # no other data need one
    carried = precomputing.carry(
      experiment, made.tokens, encode, the_model, mesh, folder, share
    )
    made, asks = dataclasses.replace(made, tokens=carried), False
  plan = state_plan.make(experiment, the_model, mesh, encode, reference=asks)
  store = Store(folder / "checkpoints", experiment.checkpoints, progress.say)
  main = _source(experiment, made, the_model, mesh, folder, share)
  source = _with_others(experiment, made.tokenizer, mesh, main)
  found = weights.resume(experiment, plan, mesh, store)
  if found is not None:
    done, state, position = found
    source.set_state(position)
    progress.say(f"resuming {folder} after step {done}")
  else:
    reinforcing.check_critic(experiment, made.tokenizer)
    with progress.waiting("making the model"):
      state = weights.start(experiment, plan, mesh)
      jax.block_until_ready(state)
    done = 0
  flops = sizing.flops_per_token(
    the_model.shape, experiment.data.length, experiment.source_length
  )
  metrics = reporting.Metrics(
    folder,
    every=experiment.log.every,
    done=done,
    until=experiment.steps,
    learning_rate=plan.learning_rate,
    flops_per_token=flops.full,
    devices=mesh.size,
    tensorboard=experiment.log.tensorboard,
  )
  try:
    hooks = _hooks(
      experiment, folder, mesh, made, the_model, metrics, share, main
    )
    validate = next(h for h in hooks if isinstance(h, reporting.Validate))
    save = Save(
      store,
      source,
      experiment.checkpoints.every,
      experiment.steps,
      validate,
      metrics,
      done,
      weights.checksums(state.frozen),
    )
  except BaseException:  # nobody else would take the bar away
    metrics.close(*sys.exc_info())
    raise
  hooks.append(save)
  normalise = functools.partial(
    normalising.measure,
    experiment,
    folder,
    made.tokens,
    the_model,
    mesh,
    share,
  )
  notes = tuple(getattr(made.tokens, "notes", ()))
  return Run(
    state, plan.step, source, hooks, save, store, metrics, normalise, notes
  )


def _source(
  experiment: Experiment,
  made: Data,
  the_model: Model,
  mesh: Mesh,
  folder: pathlib.Path,
  share: Share,
) -> Source:
  """Batches on the mesh: of data, or of what a model says to its prompts."""
  found = made.tokens
  if experiment.draws:
    assert isinstance(found, Instructed | Preferred)
    return reinforcing.source(
      experiment, found, made.tokenizer, the_model, mesh, folder
    )
  plays = experiment.self_play.max_new_tokens
  if plays:  # what is drawn needs the whole row
    assert isinstance(found, Preferred)
    assert isinstance(experiment.data, Preferences)
    found = found.read_as(dataclasses.replace(experiment.data, widths=1))
  batches = found.train(experiment.batch_size, experiment.seed, share)
  source = _Placed(batches, mesh, found.identity)
  if not plays:
    return source
  stop = asking.stop_ids(experiment.data, made.tokenizer)
  return self_play.Opponent(source, experiment.self_play, the_model, stop)


def _with_others(
  experiment: Experiment, tokenizer: Tokenizer, mesh: Mesh, source: Source
) -> Source:
  """The same, whose batches carry what is modelled beside them."""
  others = []
  for i, its in experiment.beside.items():
    size = its.batch_size or experiment.batch_size
    found = tokens(its.data, tokenizer)
    batches = found.train(size, experiment.seed, mesh_lib.share(mesh, size))
    others.append(_Placed(batches, mesh, found.identity, f"ptx.{i}.data"))
  return Mixing(source, others) if others else source


def _validator(
  experiment: Experiment,
  made: Data,
  the_model: Model,
  mesh: Mesh,
  share: Share,
  source: Source,
) -> Evaluator:
  """What is measured of held-out data; ValueError where there is none."""
  if isinstance(source, OnPolicy):
    assert isinstance(made.tokens, Instructed | Preferred)
    return reinforcing.validator(experiment, made.tokens, source)
  if isinstance(made.tokens, Preferred | Told):
    tell = measuring.teller(experiment.objective, the_model, mesh)
    evaluate = lambda roles, batches: tell(roles, batches)[0]
  else:
    score = measuring.evaluator(the_model, made.tokenizer, mesh)
    where = experiment.data
    evaluate = lambda roles, batches: score(roles, batches, where)
  batches = made.tokens.held_out("validation", experiment.batch_size, share)
  count = min(len(batches), experiment.validation.batches or len(batches))
  return lambda roles: evaluate(roles, (batches[i] for i in range(count)))


def _hooks(
  experiment: Experiment,
  folder: pathlib.Path,
  mesh: Mesh,
  made: Data,
  the_model: Model,
  metrics: reporting.Metrics,
  share: Share,
  source: Source,
) -> list[Hook]:
  validation, samples = experiment.validation, experiment.samples
  validate: Evaluator = lambda roles: {}
  if validation.every:  # an empty split is told now, not at the first time
    try:
      validate = _validator(experiment, made, the_model, mesh, share, source)
    except ValueError as e:
      raise ValueError(f"{e}; or --validation.every=0") from e
  generate = asking.generator([experiment], the_model, made.tokenizer)

  def sample(variables: Any) -> list[dict[str, str]]:
    texts = generate(
      variables,
      list(samples.prompts),
      max_new_tokens=samples.max_new_tokens,
      sampler=samples.sampler,
      seed=experiment.seed,
      stop=samples.stop,
    )
    pairs = zip(samples.prompts, texts, strict=True)
    where = experiment.data
    return [{"prompt": asking.shown(where, p), "text": t} for p, t in pairs]

  until = experiment.steps
  return [
    training.Finite(experiment.skip_nonfinite),
    *([source] if isinstance(source, OnPolicy) else []),
    metrics,
    reporting.Validate(metrics, validate, validation.every, until),
    reporting.Sample(metrics, folder, sample, samples.every, until),
    reporting.Profile(
      folder, experiment.log.profile_from, experiment.log.profile_steps
    ),
  ]


class _Placed:
  """A source whose batches are put on the mesh, and whose text is one text."""

  def __init__(
    self, source: Source, mesh: Mesh, identity: str, flag: str = "data"
  ):
    self._source, self._mesh = source, mesh
    self._identity, self._flag = identity, flag

  def next(self, state: Any) -> Batch:
    return mesh_lib.place(self._source.next(state), self._mesh)

  def get_state(self) -> dict[str, Any]:
    return self._source.get_state() | {"text": self._identity}

  def set_state(self, saved: dict[str, Any]) -> None:
    if saved.get("text", self._identity) != self._identity:
      raise ValueError(
        f"--{self._flag}: the text is not the one that this run began with, so"
        " it cannot go on; bring it back, or start another run with --init_from"
      )
    self._source.set_state(saved)
