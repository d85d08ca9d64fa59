"""The verb `evaluate`: a run on its own data, on others, beside another run."""

from collections.abc import Iterable
import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import asking, build, checks, claim, comparing, measuring, weights
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Tokenizer
from llm_jax.data.instructions import Example, Instructed
from llm_jax.data.preferences import Preferences
from llm_jax.data.preferred import Preferred
from llm_jax.evaluation import comparison, exact_match, ngrams, pairs
from llm_jax.experiment import Evaluation, Experiment
from llm_jax.reporting import files, report, tables
from llm_jax.reporting.progress import progress, say, waiting
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers
from llm_jax.training.refresh import Refresh

OWN = "data"  # what the run's own data is called
BASELINE_TOKENS = 5_000_000  # that n-gram models learn from, at most
_LONGER = 8  # tokens that an answer may have more than the longest reference

Measures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What one line of the table is measured on."""

  settings: Evaluation
  batches: Any  # a sequence of batches
  num_batches: int
  examples: list[Example]
  pairs: Any = None  # batches of pairs, where `batches` are of likes
  together: int = 1  # rows of a prompt, in `pairs` or else in `batches`

  @property
  def name(self) -> str:
    return self.settings.name

  def rows(self) -> Iterable[Batch]:
    """The batches to measure."""
    return (self.batches[i] for i in range(self.num_batches))

  def compared(self) -> Iterable[Batch] | None:
    """The batches of pairs; None where there are no others."""
    if not self.pairs:
      return self.pairs
    size = min(len(self.pairs), self.settings.batches or len(self.pairs))
    return (self.pairs[i] for i in range(size))


def evaluate(
  experiment: Experiment,
  folder: pathlib.Path,
  step: int | None,
  against: str | None = None,
) -> int:
  """Measures a checkpoint; prints tables, writes evaluation.json.

  Args:
    experiment: the run's settings, and what else to measure.
    folder: of the run.
    step: of the checkpoint; None is the newest.
    against: folder of another run, measured likewise.

  Raises:
    ValueError: data that the model cannot read; another run that is none, or
      whose tokenizer is another.
  """
  checks.settings(experiment)
  checks.checkpoint(folder, step)
  _check_lengths(experiment)
  mesh = mesh_lib.make(experiment.mesh)
  share = build.check_batch(experiment, mesh)
  if against is not None:
    other, other_folder = _other(against, folder, experiment)
  with jax.set_mesh(mesh):
    made = build.data(experiment, folder)
    datasets = list(_datasets(experiment, made, share))
    at, measured, compared = _measure(
      experiment, mesh, made.tokenizer, datasets, folder, step
    )
    split = experiment.validation.split
    found: dict[str, Any] = {
      "checkpoint_step": at,
      "split": split,
      "results": {"model": measured[OWN]},
      "datasets": measured,
    }
    if OWN in compared:
      found["results"] |= pairs.baselines(compared[OWN])
      found["calibration"] = pairs.curve(compared[OWN])
      if experiment.model.outputs:
        found["reward"] = pairs.standardised(measured[OWN])
    if against is not None:
      say(f"now {against}, on the same data")
      there, others, _ = _measure(
        other, mesh, made.tokenizer, datasets, other_folder, None
      )
      if other.objective != experiment.objective:
        _part(datasets, others)
      found["against"] = {
        "run": against,
        "checkpoint_step": there,
        "datasets": others,
        "comparison": comparison.compare(measured, others),
      }
  counts_all = not isinstance(made.tokens, Instructed | Preferred)
  first = jax.process_index() == 0
  if experiment.validation.baselines and counts_all and first:
    with waiting("n-gram baselines"):
      found["results"] |= _baselines(made, split)
  if first:
    files.write_json(folder / "evaluation.json", found)
    print(tables.evaluation(found))
    say(f"report: {report.write(folder)}")
  return 0


def _check_lengths(experiment: Experiment) -> None:
  """ValueError where a row of other data is longer than the model allows."""
  longest = experiment.model.max_length
  places = experiment.peft.places
  soft = f" after {places} virtual tokens" if places else ""
  for i, e in enumerate(experiment.evaluations):
    if e.data.length + places > longest:
      raise ValueError(
        f"--evaluations.{i}.data.length={e.data.length}:{soft} longer than"
        f" --model.max_length={longest}"
      )


def _other(
  against: str, folder: pathlib.Path, experiment: Experiment
) -> tuple[Experiment, pathlib.Path]:
  """Settings and folder of the run to compare with."""
  there = pathlib.Path(against).expanduser()
  given = f"--against={against}"
  if not Store(there / "checkpoints").steps():
    raise ValueError(f"{given}: holds no trained run")
  settings = claim.settings(there)
  theirs = tokenizers.load(there / "tokenizer").fingerprint
  if theirs != tokenizers.load(folder / "tokenizer").fingerprint:
    raise ValueError(
      f"{given}: its tokenizer is not that of {folder}, so that their tokens"
      " cannot be compared; start one from the other with --init_from"
    )
  lengths = [e.data.length for e in (experiment, *experiment.evaluations)]
  room = settings.model.max_length - settings.peft.places
  if max(lengths) > room:
    raise ValueError(
      f"{given}: reads {room} tokens at most, and rows here have {max(lengths)}"
    )
  return settings, there


def _datasets(
  experiment: Experiment, made: build.Data, share: tuple[int, int]
) -> Iterable[Dataset]:
  """The run's own data, then the others."""
  v = experiment.validation
  own = Evaluation(OWN, experiment.data, v.split, 0, v.questions)
  yield _dataset(own, made.tokens, experiment.batch_size, share)
  for i, e in enumerate(experiment.evaluations):
    try:
      tokens = build.tokens(e.data, made.tokenizer)
      yield _dataset(e, tokens, experiment.batch_size, share)
    except ValueError as error:
      raise ValueError(f"--evaluations.{i} ({e.name}): {error}") from error


def _dataset(
  settings: Evaluation, tokens: Any, batch_size: int, share: tuple[int, int]
) -> Dataset:
  batches = tokens.held_out(settings.split, batch_size, share)
  size, examples = len(batches), []
  if isinstance(tokens, Instructed | Preferred) and settings.questions:
    examples = tokens.examples(
      settings.split, settings.questions, settings.shots
    )
  chosen = min(size, settings.batches or size)
  found = Dataset(settings, batches, chosen, examples)
  where = settings.data
  if not isinstance(where, Preferences):
    return found
  in_pairs: Any = None
  if where.rows in ("labels", "answers"):
    where = dataclasses.replace(where, rows="pairs")
    try:
      as_pairs = tokens.read_as(where)
      in_pairs = as_pairs.held_out(settings.split, batch_size, share)
    except ValueError as error:  # single likes are no pairs
      say(f"{settings.name}: no pairs are compared; {error}")
      in_pairs = ()
  return dataclasses.replace(
    found, pairs=in_pairs, together=where.rows_together
  )


def _measure(
  experiment: Experiment,
  mesh: Mesh,
  tokenizer: Tokenizer,
  datasets: list[Dataset],
  folder: pathlib.Path,
  step: int | None,
) -> tuple[int, dict[str, Measures], dict[str, pairs.Completions]]:
  """Step of a run; measures, and completions with rewards, by dataset."""
  model = model_lib.make(experiment, tokenizer)
  asks = comparing.has_reference(experiment) and any(
    isinstance(d.settings.data, Preferences) for d in datasets
  )
  # Measured is how far it has come from where it began.
  began = dataclasses.replace(experiment, refresh=Refresh())
  plan = weights.plan(began, model, mesh, reference=asks)
  at, roles = weights.load(experiment, plan, mesh, folder, step)
  score = measuring.evaluator(model, tokenizer, mesh)
  compare = comparing.Comparer(experiment.objective, model, mesh)
  room = model.shape.max_length - experiment.peft.places
  out: dict[str, Measures] = {}
  compared: dict[str, pairs.Completions] = {}
  for d in datasets:
    where = d.settings.data
    if isinstance(where, Preferences):
      found, rewards = compare(
        where, roles, d.rows(), d.compared(), d.together, d.name
      )
      if rewards is not None:
        compared[d.name] = rewards
      if asks and d.examples:
        prompts = [e.prompt_ids for e in d.examples]
        found |= comparing.kl(
          experiment, model, tokenizer, where, roles, prompts
        )
      if found:
        out[d.name] = found
      continue
    bar = progress(d.rows(), d.num_batches, f"evaluating {d.name}")
    out[d.name] = score(roles, bar)
    if d.examples:
      references = [e.reference for e in d.examples]
      sizes = [len(ids) for ids in tokenizer.encode_batch(references)]
      _check_room(d, sizes, room)
      answer = asking.answerer(experiment, model, tokenizer, d.settings.data)
      answers = progress(
        answer(
          roles["policy"],
          [e.prompt_ids for e in d.examples],
          _LONGER + max(sizes),
        ),
        len(d.examples),
        f"answering {d.name}",
      )
      texts = [tokenizer.decode(ids) for ids in answers]
      tasks = [e.conversation.task for e in d.examples]
      out[d.name] |= exact_match.evaluate(texts, references)
      each = exact_match.by_task(texts, references, tasks)
      out |= {f"{d.name}: {task}": found for task, found in each.items()}
  return at, out, compared


def _check_room(d: Dataset, sizes: list[int], room: int) -> None:
  """ValueError where the model cannot read a question and its answer."""
  for e, size in zip(d.examples, sizes, strict=True):
    asked = 1 + len(e.prompt_ids)
    if asked + size > room:
      raise ValueError(
        f"{d.name}: a question of {asked} tokens and its answer of {size} are"
        f" together longer than the {room} that --model.max_length leaves"
      )


def _part(datasets: list[Dataset], others: dict[str, Measures]) -> None:
  """Takes away what another objective measures in another unit."""
  for d in datasets:
    if isinstance(d.settings.data, Preferences):
      for name in ("loss", "margin", "ece"):
        others.get(d.name, {}).pop(name, None)


def _baselines(made: build.Data, split: str) -> dict[str, Measures]:
  """N-gram models, which learn from the training split."""
  token_bytes = np.asarray(made.tokenizer.token_bytes(), np.int64)
  train_ids = np.asarray(made.tokens.tokens("train").ids[:BASELINE_TOKENS])
  ids = np.asarray(made.tokens.tokens(split).ids)
  vocab_size = len(token_bytes)
  return {
    "unigram": ngrams.unigram(train_ids, ids, vocab_size, token_bytes),
    "kneser_ney_5": ngrams.KneserNey(train_ids, vocab_size).evaluate(
      ids, token_bytes
    ),
  }
