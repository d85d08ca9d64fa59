"""Experiment -> Run: the one place where the rooms meet."""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import itertools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import checks, precomputing, weights
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Hook, Objective, Roles, Source, Tokenizer
from llm_jax.data import chat, instructions
from llm_jax.data.arrays import Arrays, Loaded
from llm_jax.data.conversation import Message
from llm_jax.data.instructions import Instructed
from llm_jax.data.preferred import Preferred
from llm_jax.data.text import Tokenised
from llm_jax.evaluation import likelihood
from llm_jax.evaluation import objective as by_objective
from llm_jax.experiment import Asked, DataSettings, Experiment
from llm_jax.generation.greedy import Answerer
from llm_jax.generation.text import Generator
from llm_jax.model import Model
from llm_jax.models import sizing
from llm_jax.reporting import hooks as reporting
from llm_jax.reporting import progress
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers
from llm_jax.training import hooks as training
from llm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Data:
  """Text as ids, and what turned it into ids."""

  tokenizer: Tokenizer
  tokens: Tokenised | Instructed | Preferred | Loaded


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything that a training loop needs."""

  state: TrainState
  step: Callable[[TrainState, Batch], tuple]
  source: Source
  hooks: list[Hook]
  save: "Save"
  store: Store
  metrics: reporting.Metrics


def data(experiment: Experiment, folder: pathlib.Path) -> Data:
  """Prepares text and tokenizer; finds both again on the next start."""
  where, home = experiment.data, folder / "tokenizer"
  if Store(folder / "checkpoints").steps():
    tokenizers.load(home)  # weights without their tokenizer are worth nothing
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


def tokens(
  where: DataSettings, tokenizer: Tokenizer
) -> Tokenised | Instructed | Preferred | Loaded:
  """Data as ids of a tokenizer that there is already."""
  if isinstance(where, Arrays):
    return where.load()
  return _tokens(where.prepare(progress.progress), tokenizer)


def _tokens(
  corpus: Any, tokenizer: Tokenizer
) -> Tokenised | Instructed | Preferred:
  found = corpus.tokenise(tokenizer, progress.progress)
  if isinstance(found, Instructed | Preferred):
    for note in found.notes:
      progress.say(note)
  return found


def check_batch(experiment: Experiment, mesh: Mesh) -> tuple[int, int]:
  """This process's share of a batch; ValueError where it cannot be cut."""
  share = mesh_lib.share(mesh, experiment.batch_size)
  together = experiment.objective.rows_together
  cuts = mesh.shape["data"] * mesh.shape["fsdp"] * experiment.microbatches
  if experiment.batch_size % (cuts * together):
    rows = f" x {together} rows that belong together" if together > 1 else ""
    raise ValueError(
      f"--batch_size={experiment.batch_size}: not divisible by"
      f" --microbatches={experiment.microbatches} x data"
      f" {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}{rows}"
    )
  return share


def evaluator(
  model: Model, tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[Roles, Iterable[Batch]], dict[str, float]]:
  """(roles, host batches) -> how well the policy predicts them."""
  token_bytes = jnp.zeros(model.shape.vocab_size, jnp.int32)
  known = tokenizer.token_bytes()
  token_bytes = token_bytes.at[: len(known)].set(known)
  compiled = jax.jit(
    lambda v, b: likelihood.totals(model.score, v, b, token_bytes)
  )

  def evaluate(roles: Roles, batches: Iterable[Batch]) -> dict[str, float]:
    placed = (mesh_lib.place(b, mesh) for b in batches)
    return likelihood.evaluate(compiled, roles["policy"], placed)

  return evaluate


def comparer(
  objective: Objective, model: Model, mesh: Mesh
) -> Callable[[Roles, Iterable[Batch]], dict[str, float]]:
  """(roles, host batches of preferences) -> what an objective says of them."""
  forward = weights.forward(model)
  compiled = jax.jit(
    lambda roles, b: by_objective.totals(objective, forward, roles, b)
  )

  def evaluate(roles: Roles, batches: Iterable[Batch]) -> dict[str, float]:
    placed = (mesh_lib.place(b, mesh) for b in batches)
    return by_objective.evaluate(compiled, roles, placed)

  return evaluate


def encoder(
  where: DataSettings, tokenizer: Tokenizer
) -> Callable[[str], Sequence[int]]:
  """Prompt -> ids: as a question, where the data are answers."""
  if isinstance(where, Asked):
    return instructions.encoder(where.template, tokenizer)
  return tokenizer.encode


def shown(where: DataSettings, prompt: str) -> str:
  """A prompt as it is printed: an answer begins on a line of its own."""
  return prompt + "\n" if isinstance(where, Asked) else prompt


def stop_ids(where: DataSettings, tokenizer: Tokenizer) -> tuple[int, ...]:
  """Ids that end a text, or the answer in a chat template."""
  known = (tokenizer.eos_id, tokenizer.role_ids["end"])
  if not isinstance(where, Asked):
    return known
  turns = Message("user", "?"), Message("assistant", "!")
  template = chat.Template(where.template)
  ids, trained = chat.render(turns, tokenizer, template=template)
  *_, last = itertools.compress(ids, trained)
  return tuple(dict.fromkeys((*known, last)))


def generator(
  experiments: Sequence[Experiment],
  model: Model,
  tokenizer: Tokenizer,
  by_row: bool = False,
) -> Generator:
  """Prompts -> text.

  Args:
    experiments: by whose data and virtual tokens the prompts are read; of
      several, `Generator.stream` is told by number.
    model: the decoder.
    tokenizer: text <-> ids.
    by_row: each row has an adapter of its own.
  """
  stop = [i for e in experiments for i in stop_ids(e.data, tokenizer)]
  return Generator(
    tokenizer,
    model.decode_rows if by_row else model.decode,
    model.open_rows if by_row else model.open_cache,
    model.shape.max_length - max(e.peft.places for e in experiments),
    [encoder(e.data, tokenizer) for e in experiments],
    tuple(dict.fromkeys(stop)),
  )


def answerer(
  experiment: Experiment,
  model: Model,
  tokenizer: Tokenizer,
  where: DataSettings,
) -> Answerer:
  """Questions of some data as ids -> answers as ids, a batch at once."""
  return Answerer(
    tokenizer,
    model.decode,
    model.open_cache,
    model.shape.max_length - experiment.peft.places,
    experiment.batch_size,
    stop_ids(where, tokenizer),
  )


class Save(Hook):
  """Writes a checkpoint every so often, and at the end."""

  def __init__(
    self,
    store: Store,
    source: Source,
    every: int,
    until: int,
    validate: reporting.Validate,
    metrics: reporting.Metrics,
    done: int,
    base: dict[str, int],
  ):
    self._store, self._source = store, source
    self._every, self._until = every, until
    self._validate, self._metrics = validate, metrics
    self._saved = done if store.steps() else -1
    self._base = base

  def due(self, step: int) -> bool:
    regular = self._every and step % self._every == 0
    return bool(regular) or step == self._until

  def act(self, step: int, state: TrainState) -> None:
    if step != self._saved:
      self._saved = step
      position = self._source.get_state() | {"base": self._base}
      with self._metrics.during("saving"):
        self._store.save(
          step, weights.saved(state), position, self._validate.at(step)
        )


def run(experiment: Experiment, folder: pathlib.Path, mesh: Mesh) -> Run:
  """Loads or makes everything; the caller runs the loop."""
  share = check_batch(experiment, mesh)
  made = data(experiment, folder)
  the_model = model_lib.make(experiment, made.tokenizer)
  if experiment.samples.every:  # too long is told now, not at the first one
    checks.prompts(
      experiment, the_model.shape, encoder(experiment.data, made.tokenizer)
    )
  encode, asks = made.tokenizer.encode, experiment.objective.needs_reference
  if experiment.reference == "once" and asks:
    assert isinstance(made.tokens, Preferred)  # no other data need one
    carried = precomputing.carry(
      experiment, made.tokens, encode, the_model, mesh, folder, share
    )
    made, asks = dataclasses.replace(made, tokens=carried), False
  plan = weights.plan(experiment, the_model, mesh, encode, reference=asks)
  store = Store(folder / "checkpoints", experiment.checkpoints, progress.say)
  source = _Placed(
    made.tokens.train(experiment.batch_size, experiment.seed, share),
    mesh,
    made.tokens.identity,
  )
  found = weights.resume(experiment, plan, mesh, store)
  if found is not None:
    done, state, position = found
    source.set_state(position)
    progress.say(f"resuming {folder} after step {done}")
  else:
    with progress.waiting("making the model"):
      state = weights.start(experiment, plan, mesh)
      jax.block_until_ready(state)
    done = 0
  flops = sizing.flops_per_token(the_model.shape, experiment.data.length)
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
    hooks = _hooks(experiment, folder, mesh, made, the_model, metrics, share)
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
  return Run(state, plan.step, source, hooks, save, store, metrics)


def _hooks(
  experiment: Experiment,
  folder: pathlib.Path,
  mesh: Mesh,
  made: Data,
  the_model: Model,
  metrics: reporting.Metrics,
  share: tuple[int, int],
) -> list[Hook]:
  evaluate = (
    comparer(experiment.objective, the_model, mesh)
    if isinstance(made.tokens, Preferred)
    else evaluator(the_model, made.tokenizer, mesh)
  )
  validation, samples = experiment.validation, experiment.samples
  if validation.every:  # an empty split is told now, not at the first time
    try:
      batches = made.tokens.held_out("validation", experiment.batch_size, share)
    except ValueError as e:
      raise ValueError(f"{e}; or --validation.every=0") from e

  def validate(roles: Roles) -> dict[str, float]:
    count = min(len(batches), validation.batches or len(batches))
    return evaluate(roles, (batches[i] for i in range(count)))

  generate = generator([experiment], the_model, made.tokenizer)

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
    return [{"prompt": shown(where, p), "text": t} for p, t in pairs]

  until = experiment.steps
  return [
    training.Finite(experiment.skip_nonfinite),
    metrics,
    reporting.Validate(metrics, validate, validation.every, until),
    reporting.Sample(metrics, folder, sample, samples.every, until),
    reporting.Profile(
      folder, experiment.log.profile_from, experiment.log.profile_steps
    ),
  ]


class _Placed:
  """A source whose batches are put on the mesh, and whose text is one text."""

  def __init__(self, source: Source, mesh: Mesh, identity: str):
    self._source, self._mesh, self._identity = source, mesh, identity

  def next(self, state: Any) -> Batch:
    return mesh_lib.place(self._source.next(state), self._mesh)

  def get_state(self) -> dict[str, Any]:
    return self._source.get_state() | {"text": self._identity}

  def set_state(self, saved: dict[str, Any]) -> None:
    if saved.get("text", self._identity) != self._identity:
      raise ValueError(
        "--data: the text is not the one that this run began with, so it"
        " cannot go on; bring it back, or start another run with --init_from"
      )
    self._source.set_state(saved)
