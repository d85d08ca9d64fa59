"""What `evaluate` measures a run on: its own data, and others'."""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
from typing import Any

from llm_jax import build
from llm_jax.contracts import Batch, Share, Tokenizer
from llm_jax.data.corruption import Pair
from llm_jax.data.examples import Examples
from llm_jax.data.instructions import Instructed
from llm_jax.data.marked import Marked
from llm_jax.data.preferences import Preferences
from llm_jax.data.preferred import Preferred
from llm_jax.data.questions import Example
from llm_jax.data.tags import Tags
from llm_jax.data.text import Tokenised
from llm_jax.experiment import Asked, Evaluation, Experiment
from llm_jax.objectives.classification import Classification
from llm_jax.reporting.progress import say

OWN = "data"  # what the run's own data is called


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What one line of the table is measured on."""

  settings: Evaluation
  batches: Any  # a sequence of batches
  num_batches: int
  examples: list[Example]
  gaps: Sequence[Pair] = ()  # examples with spans to be told
  pairs: Any = None  # batches of pairs, where `batches` are of likes
  marked: Marked | None = None  # texts of whose positions something is told
  together: int = 1  # rows of a prompt, in `pairs` or else in `batches`
  classes: tuple[str, ...] = ()  # of labelled texts, by number

  @property
  def name(self) -> str:
    return self.settings.name

  @property
  def is_asked(self) -> bool:
    """Whether it has questions."""
    return bool(self.examples) and isinstance(self.settings.data, Asked)

  def rows(self) -> Iterable[Batch]:
    """The batches to measure."""
    return (self.batches[i] for i in range(self.num_batches))

  def compared(self) -> Iterable[Batch] | None:
    """The batches of pairs; None where there are no others."""
    if not self.pairs:
      return self.pairs
    size = min(len(self.pairs), self.settings.batches or len(self.pairs))
    return (self.pairs[i] for i in range(size))


def chosen(experiment: Experiment, only: Sequence[str]) -> Experiment:
  """With the evaluations that are named; ValueError for a name of none."""
  names = [OWN, *(e.name for e in experiment.evaluations)]
  for name in only:
    if name not in names:
      raise ValueError(
        f"--only={name}: must be of the data there are: {', '.join(names)}"
      )
  if not only:
    return experiment
  kept = tuple(e for e in experiment.evaluations if e.name in only)
  return dataclasses.replace(experiment, evaluations=kept)


def of_run(
  experiment: Experiment,
  own: Any,
  tokenizer: Tokenizer,
  share: Share,
  names: tuple[str, ...],
) -> Iterable[Dataset]:
  """The run's own data as ids, unless there is None, then the others.

  Labelled texts whose classes have no names given have those of the run.
  """
  v = experiment.validation
  if own is not None:
    its = Evaluation(OWN, experiment.data, v.split, 0, v.questions)
    yield _dataset(its, own, experiment.batch_size, share)
  for i, e in enumerate(experiment.evaluations):
    d = e.data
    if isinstance(d, Examples | Tags) and d.rows != "numbers" and not d.classes:
      e = dataclasses.replace(e, data=dataclasses.replace(d, classes=names))
    try:
      tokens = build.tokens(e.data, tokenizer)
      yield _dataset(e, tokens, experiment.batch_size, share)
    except ValueError as error:
      raise ValueError(f"--evaluations.{i} ({e.name}): {error}") from error


def _dataset(
  settings: Evaluation, tokens: Any, batch_size: int, share: Share
) -> Dataset:
  batches = tokens.held_out(settings.split, batch_size, share)
  size, examples = len(batches), []
  if isinstance(tokens, Instructed | Preferred) and settings.questions:
    examples = tokens.examples(
      settings.split, settings.questions, settings.shots
    )
  chosen = min(size, settings.batches or size)
  gaps: Sequence[Pair] = ()
  if isinstance(tokens, Tokenised) and settings.questions:
    gaps = tokens.gaps(settings.split, settings.questions)
  classes = getattr(tokens, "classes", ())
  found = Dataset(settings, batches, chosen, examples, gaps, classes=classes)
  if isinstance(tokens, Marked):
    return dataclasses.replace(found, marked=tokens)
  where = settings.data
  if not isinstance(where, Preferences):
    return found
  in_pairs: Any = None
  if where.rows in ("labels", "answers", "classes"):
    alone = where.rows == "classes"
    where = dataclasses.replace(where, rows="pairs")
    try:
      as_pairs = tokens.read_as(where)
      in_pairs = as_pairs.held_out(settings.split, batch_size, share)
    except ValueError as error:  # single likes are no pairs
      if not alone:  # classes are measured without
        say(f"{settings.name}: no pairs are compared; {error}")
      in_pairs = ()
  return dataclasses.replace(
    found, pairs=in_pairs, together=where.rows_together
  )


def check_lengths(experiment: Experiment) -> None:
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


def check_classes(
  experiment: Experiment, datasets: list[Dataset], names: tuple[str, ...]
) -> None:
  """ValueError where classes are not those that a classifier tells apart."""
  if not isinstance(experiment.objective, Classification):
    return
  for d in datasets:
    where = d.settings.data
    if isinstance(where, Preferences) and where.rows == "classes":
      if where.classes != names:
        raise ValueError(
          f"{d.name}: has the classes {', '.join(where.classes)}, and the run"
          f" tells {', '.join(names)} apart"
        )


def with_room(
  d: Dataset, tokenizer: Tokenizer, room: int
) -> tuple[list[Example], int]:
  """Questions that can be read with their answers; tokens of the longest.

  Raises:
    ValueError: there is none.
  """
  found = tokenizer.encode_batch([e.reference for e in d.examples])
  sizes = list(map(len, found))
  fits = [
    1 + len(e.prompt_ids) + size <= room
    for e, size in zip(d.examples, sizes, strict=True)
  ]
  if not all(fits):
    said = (
      f"{d.name}: {fits.count(False)} of {len(fits)} questions are, with their"
      f" answers, longer than the {room} tokens that --model.max_length leaves"
    )
    if not any(fits):
      raise ValueError(said)
    say(f"{said}; they are left out")
  return (
    list(itertools.compress(d.examples, fits)),
    max(itertools.compress(sizes, fits)),
  )
