"""Experiment -> Run: the one place where the rooms meet."""

from collections.abc import Callable, Iterable
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import axes, checks, claim, trees
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Hook, Score, Source, Tokenizer
from llm_jax.data.arrays import Arrays, Loaded
from llm_jax.data.text import Tokenised
from llm_jax.evaluation import likelihood
from llm_jax.experiment import Experiment
from llm_jax.generation.text import Generator
from llm_jax.models import cache as cache_lib
from llm_jax.models import sizing, transformer
from llm_jax.models.config import TransformerConfig
from llm_jax.reporting import hooks as reporting
from llm_jax.reporting import progress
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training import hooks as training
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.state import TrainState

# Characters of a corpus not read yet are taken to be about as many.
BYTE_IDS = ByteTokenizer.vocab_size


@dataclasses.dataclass(frozen=True)
class Data:
  """Text as ids, and what turned it into ids."""

  tokenizer: Tokenizer
  tokens: Tokenised | Loaded


@dataclasses.dataclass(frozen=True)
class Model:
  """Pure functions of one shape of decoder, and how its state is placed."""

  shape: TransformerConfig
  score: Score
  decode: Callable[..., Any]
  empty_cache: Callable[[int, int], Any]
  init: Callable[[jax.Array], Any]  # key -> boxed variables


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
    tokenizers.copy(_origin(experiment.init_from) / "tokenizer", home)
  if isinstance(where, Arrays):
    tokenizer = tokenizers.obtain(experiment.tokenizer, lambda: iter(()), home)
    return Data(tokenizer, where.load())
  corpus = where.prepare(progress.progress)
  with progress.waiting("tokenizer"):
    tokenizer = tokenizers.obtain(
      experiment.tokenizer, lambda: corpus.texts("train"), home
    )
  return Data(tokenizer, corpus.tokenise(tokenizer, progress.progress))


def model(experiment: Experiment, tokenizer: Tokenizer) -> Model:
  """The decoder, its vocabulary filled in from the tokenizer."""
  shape = experiment.model
  if not shape.vocab_size:
    shape = dataclasses.replace(shape, vocab_size=tokenizer.vocab_size)
  if shape.vocab_size < tokenizer.vocab_size:
    raise ValueError(
      f"--model.vocab_size={shape.vocab_size}: the tokenizer has"
      f" {tokenizer.vocab_size} ids; 0 takes as many"
    )
  return of_shape(shape)


def expected_shape(experiment: Experiment) -> TransformerConfig:
  """The decoder's shape before there is a tokenizer."""
  shape, tokenizer = experiment.model, experiment.tokenizer
  if shape.vocab_size:
    return shape
  size = BYTE_IDS
  if isinstance(tokenizer, SentencePiece) and tokenizer.kind != "char":
    size = tokenizer.vocab_size
  return dataclasses.replace(shape, vocab_size=size)


def of_shape(shape: TransformerConfig) -> Model:
  """The pure functions of a decoder of this shape."""
  module = transformer.Decoder(shape)
  # The same parameters, compiled sooner.
  looped = transformer.Decoder(dataclasses.replace(shape, unroll=1))

  def score(
    variables: Any,
    batch: Batch,
    *,
    key: jax.Array | None = None,
    entropy: bool = False,
    hits: bool = False,
  ) -> Any:
    rngs = {} if key is None or not shape.dropout else {"dropout": key}
    return module.apply(
      variables, batch, entropy=entropy, hits=hits, rngs=rngs, method="score"
    )

  def decode(variables: Any, *arguments: Any) -> Any:
    return module.apply(variables, *arguments, method="decode")

  return Model(
    shape=shape,
    score=score,
    decode=decode,
    empty_cache=functools.partial(cache_lib.empty, shape),
    init=lambda key: looped.init(key, jnp.zeros((1, 1), jnp.int32)),
  )


def check_batch(experiment: Experiment, mesh: Mesh) -> tuple[int, int]:
  """This process's share of a batch; ValueError where it cannot be cut."""
  share = mesh_lib.share(mesh, experiment.batch_size)
  cuts = mesh.shape["data"] * mesh.shape["fsdp"] * experiment.microbatches
  if experiment.batch_size % cuts:
    raise ValueError(
      f"--batch_size={experiment.batch_size}: not divisible by"
      f" --microbatches={experiment.microbatches} x data"
      f" {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
    )
  return share


@dataclasses.dataclass(frozen=True)
class Plan:
  """The state before it exists, and the functions on it."""

  abstract: TrainState  # shapes with shardings
  init: Callable[[jax.Array], TrainState]
  step: Callable[[TrainState, Batch], tuple]
  learning_rate: Callable[[int], Any]


def plan_state(experiment: Experiment, model: Model, mesh: Mesh) -> Plan:
  """Shapes, placement and functions of training, nothing computed yet."""
  key = jax.random.key(experiment.seed)
  boxed = {"policy": jax.eval_shape(model.init, key)}
  optimizer = experiment.optimizer.make(experiment.steps, axes.suffixes(boxed))

  def init(key: jax.Array) -> TrainState:
    return state_lib.create(
      {"policy": model.init(key)},
      lambda path: True,
      optimizer,
      key,
      average=experiment.average is not None,
    )

  boxed_state = jax.eval_shape(init, key)
  placement = axes.shardings(boxed_state, mesh)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    axes.unbox(boxed_state),
    placement,
  )
  step = functools.partial(
    step_lib.train_step,
    objective=experiment.objective,
    forward={"policy": model.score},
    optimizer=optimizer,
    microbatches=experiment.microbatches,
    average_decay=experiment.average,
  )
  return Plan(
    abstract=abstract,
    init=jax.jit(lambda k: axes.unbox(init(k)), out_shardings=placement),
    step=jax.jit(step, donate_argnums=0, out_shardings=(placement, None)),
    learning_rate=experiment.optimizer.learning_rate(experiment.steps),
  )


def evaluator(
  model: Model, tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[Any, Iterable[Batch]], dict[str, float]]:
  """(variables, host batches) -> measures."""
  token_bytes = jnp.zeros(model.shape.vocab_size, jnp.int32)
  known = tokenizer.token_bytes()
  token_bytes = token_bytes.at[: len(known)].set(known)
  compiled = jax.jit(
    lambda v, b: likelihood.totals(model.score, v, b, token_bytes)
  )

  def evaluate(variables: Any, batches: Iterable[Batch]) -> dict[str, float]:
    placed = (mesh_lib.place(b, mesh) for b in batches)
    return likelihood.evaluate(compiled, variables, placed)

  return evaluate


def generator(model: Model, tokenizer: Tokenizer) -> Generator:
  """Prompts -> text."""
  return Generator(
    tokenizer, model.decode, model.empty_cache, model.shape.max_length
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
  ):
    self._store, self._source = store, source
    self._every, self._until = every, until
    self._validate, self._metrics = validate, metrics
    self._saved = done if store.steps() else -1

  def due(self, step: int) -> bool:
    regular = self._every and step % self._every == 0
    return bool(regular) or step == self._until

  def act(self, step: int, state: TrainState) -> None:
    if step != self._saved:
      self._saved = step
      self._store.save(
        step, state, self._source.get_state(), self._validate.at(step)
      )
      self._metrics.pause()


def run(experiment: Experiment, folder: pathlib.Path, mesh: Mesh) -> Run:
  """Loads or makes everything; the caller runs the loop."""
  share = check_batch(experiment, mesh)
  made = data(experiment, folder)
  the_model = model(experiment, made.tokenizer)
  if experiment.samples.every:  # too long is told now, not at the first one
    checks.prompts(experiment, the_model.shape, made.tokenizer)
  plan = plan_state(experiment, the_model, mesh)
  store = Store(folder / "checkpoints", experiment.checkpoints, progress.say)
  source = _Placed(
    made.tokens.train(experiment.batch_size, experiment.seed, share),
    mesh,
    made.tokens.identity,
  )
  found = store.restore(plan.abstract)
  if found is not None:
    done, state, position = found
    source.set_state(position)
    progress.say(f"resuming {folder} after step {done}")
  else:
    with progress.waiting("making the model"):
      state = plan.init(jax.random.key(experiment.seed))
      if experiment.init_from:
        state = warm_start(state, plan.abstract, experiment.init_from)
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
  )
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
  evaluate = evaluator(the_model, made.tokenizer, mesh)
  validation, samples = experiment.validation, experiment.samples
  if validation.every:  # an empty split is told now, not at the first time
    try:
      batches = made.tokens.held_out("validation", experiment.batch_size, share)
    except ValueError as e:
      raise ValueError(f"{e}; or --validation.every=0") from e

  def validate(variables: Any) -> dict[str, float]:
    count = min(len(batches), validation.batches or len(batches))
    return evaluate(variables, (batches[i] for i in range(count)))

  generate = generator(the_model, made.tokenizer)

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
    return [{"prompt": p, "text": t} for p, t in pairs]

  until = experiment.steps
  return [
    training.Finite(experiment.skip_nonfinite),
    metrics,
    reporting.Validate(metrics, validate, validation.every, until),
    reporting.Sample(folder, sample, samples.every, until),
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


def warm_start(
  state: TrainState, abstract: TrainState, init_from: str
) -> TrainState:
  """The state with the weights of another run, trained last or averaged."""
  _, weights = load_weights(_origin(init_from), abstract)
  trainable = jax.tree.map(lambda old, new: new, state.trainable, weights)
  average = None
  if state.average is not None:
    average = jax.tree.map(jnp.copy, trainable)
  return dataclasses.replace(state, trainable=trainable, average=average)


def _origin(init_from: str) -> pathlib.Path:
  """The run to start from; ValueError where there is none."""
  origin = pathlib.Path(init_from).expanduser()
  if not Store(origin / "checkpoints").steps():
    raise ValueError(f"--init_from={init_from}: holds no trained run")
  return origin


def load_weights(
  folder: pathlib.Path, abstract: TrainState, step: int | None = None
) -> tuple[int, Any]:
  """Step and roles of a checkpoint; its moving average where it keeps one."""
  store = Store(folder / "checkpoints", warn=progress.say)
  part = (
    "average" if claim.settings(folder).average is not None else "trainable"
  )
  at, found = store.restore_part({part: abstract.trainable}, step)
  return at, trees.join(found[part], abstract.frozen)
