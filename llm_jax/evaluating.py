"""The verb `evaluate`: a run on its own data, on others, beside another run."""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import (
  answering,
  asking,
  build,
  checks,
  claim,
  comparing,
  cuts,
  importing,
  infilling,
  marking,
  measuring,
  naming,
  normalising,
  state_plan,
  tasks,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.contracts import Roles, Tokenizer
from llm_jax.data.denoisers import Plain
from llm_jax.data.exampled import Exampled
from llm_jax.data.examples import Examples
from llm_jax.data.instructions import Instructed
from llm_jax.data.marked import Marked
from llm_jax.data.preferences import Preferences
from llm_jax.data.preferred import Preferred
from llm_jax.data.text import Text
from llm_jax.datasets import (
  check_classes,
  check_lengths,
  chosen,
  Dataset,
  of_run,
  OWN,
  with_room,
)
from llm_jax.evaluation import (
  classes,
  comparison,
  exact_match,
  ngrams,
  pairs,
)
from llm_jax.experiment import Asked, Experiment
from llm_jax.reporting import files, report, tables
from llm_jax.reporting.progress import heard_by, progress, say, waiting
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers
from llm_jax.training.refresh import Refresh

BASELINE_TOKENS = 5_000_000  # that n-gram models learn from, at most
_LONGER = 8  # tokens that an answer may have more than the longest reference

Measures = dict[str, float]


def evaluate(
  experiment: Experiment,
  folder: pathlib.Path,
  step: int | None,
  against: str | None = None,
  kl_from: str | None = None,
  only: Sequence[str] = (),
) -> int:
  """Measures a checkpoint; prints tables, writes evaluation.json.

  Args:
    experiment: the run's settings, and what else to measure.
    folder: of the run.
    step: of the checkpoint; None is the newest.
    against: folder of another run, measured likewise.
    kl_from: folder of the run that KL of answers is from; None is what a
      policy began with.
    only: names of the data to measure; none is all of them.

  Raises:
    ValueError: data that the model cannot read; another run that is none, or
      whose tokenizer is another.
  """
  checks.settings(experiment)
  if not importing.untrained(experiment, folder):
    checks.checkpoint(folder, step)
  experiment = chosen(experiment, only)
  check_lengths(experiment)
  mesh = mesh_lib.make(experiment.mesh)
  share = cuts.share(experiment, mesh)
  if against is not None:
    other, other_folder = _other("against", against, folder, experiment)
  if kl_from is not None:
    _other("kl_from", kl_from, folder, experiment)
  watch = build.watch(experiment, folder / "evaluating")
  with contextlib.closing(watch), heard_by(watch.moves), jax.set_mesh(mesh):
    made = None
    if not only or OWN in only:
      made = build.data(experiment, folder)
    tokenizer = (
      made.tokenizer if made else importing.tokenizer_of(experiment, folder)
    )
    own = made.tokens if made else None
    names = naming.names(experiment, folder)
    datasets = list(of_run(experiment, own, tokenizer, share, names))
    _check_judged(experiment, datasets)
    judging = answering.judges(experiment, folder, step, mesh)
    at, measured, compared, classified, said, told = _measure(
      experiment, mesh, tokenizer, datasets, folder, step, judging, kl_from
    )
    split = experiment.validation.split
    found: dict[str, Any] = {
      "checkpoint_step": at,
      "split": split,
      "results": {"model": _headline(measured)},
      "datasets": measured,
      "said": said,
    }
    if OWN in compared:
      found["results"] |= pairs.baselines(compared[OWN])
      found["calibration"] = pairs.confidence(compared[OWN]).curve()
    if OWN in classified:
      assert isinstance(experiment.data, Preferences)
      found["results"] |= classes.baselines(classified[OWN])
      found["calibration"] = classes.confidence(classified[OWN]).curve()
      found["classes"] = classes.of_each(
        classified[OWN], experiment.data.classes
      )
    if OWN in told:
      found["results"] |= told[OWN].baselines
      found |= told[OWN].beside
    trained = claim.settings(folder)
    if reward := normalising.read(trained, folder, at):
      found["reward"] = reward
    if against is not None:
      say(f"now {against}, on the same data")
      there, others, *_ = _measure(
        other,
        mesh,
        tokenizer,
        datasets,
        other_folder,
        None,
        judging,
        kl_from,
      )
      if other.objective != experiment.objective:
        _part(datasets, others)
      found["against"] = {
        "run": against,
        "checkpoint_step": there,
        "datasets": others,
        "comparison": comparison.compare(measured, others),
      }
  first = jax.process_index() == 0
  apart = Instructed | Preferred | Exampled | Marked
  counts_all = made and not isinstance(own, apart)
  if isinstance(experiment.data, Text):
    counts_all = made and isinstance(experiment.data.corruption, Plain)
  if experiment.validation.baselines and counts_all and first:
    assert made is not None
    with waiting("n-gram baselines"):
      found["results"] |= _baselines(made, split)
  if first:
    for name, its in told.items():
      marking.write(folder, name, its)
    files.write_json(folder / "evaluation.json", found)
    print(tables.evaluation(found))
    say(f"report: {report.write(folder)}")
  return 0


def _headline(measured: dict[str, Measures]) -> Measures:
  """Measures of the run's own data, or of others where it has none there."""
  return measured.get(OWN) or next(iter(measured.values()), {})


def _check_judged(experiment: Experiment, datasets: list[Dataset]) -> None:
  """ValueError where judges are asked, and there is nothing to be judged."""
  given = f"--validation.best_of={experiment.validation.best_of}"
  if not experiment.validation.best_of:
    return
  if jax.process_count() > 1:
    raise ValueError(f"{given}: in one process; leave out --coordinator")
  if not _speaks(experiment):
    kind = type(experiment.objective).__name__
    raise ValueError(f"{given}: a run trained with {kind} gives no answers")
  if not any(d.is_asked for d in datasets):
    raise ValueError(
      f"{given}: there are no questions; --validation.questions says how many"
      " of instructions or preferences are answered"
    )


def _speaks(experiment: Experiment) -> bool:
  """Whether it is a policy: what has outputs of its own says numbers."""
  return not experiment.model.outputs or experiment.draws


def _other(
  flag: str, run: str, folder: pathlib.Path, experiment: Experiment
) -> tuple[Experiment, pathlib.Path]:
  """Settings and folder of the run that a flag names, to compare with."""
  given, there = f"--{flag}={run}", weights.origin(run, flag)
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


class _Measured(NamedTuple):
  """What there is of a run, by dataset."""

  step: int
  measures: dict[str, Measures]
  compared: dict[str, pairs.Completions]  # completions with their rewards
  classified: dict[str, classes.Classified]
  said: dict[str, dict[str, Any]]  # answers, and what judges say of them
  told: dict[str, tasks.Measured]  # of labelled texts


def _measure(
  experiment: Experiment,
  mesh: Mesh,
  tokenizer: Tokenizer,
  datasets: list[Dataset],
  folder: pathlib.Path,
  step: int | None,
  judging: answering.Judging | None,
  kl_from: str | None,
) -> _Measured:
  names = naming.names(experiment, folder)
  check_classes(experiment, datasets, names)
  tasks.check(experiment, datasets, names)
  model = model_lib.make(experiment, tokenizer)
  checks.starts(experiment, model.shape, tokenizer)
  asked = Asked if experiment.draws else Preferences
  asks = comparing.has_reference(experiment) and any(
    isinstance(d.settings.data, asked) for d in datasets
  )
  # Measured is how far it has come from where it began.
  began = dataclasses.replace(experiment, refresh=Refresh())
  plan = state_plan.make(began, model, mesh, reference=asks)
  at, roles = weights.load(experiment, plan, mesh, folder, step)
  score = measuring.evaluator(model, tokenizer, mesh)
  compare = comparing.Comparer(experiment.objective, model, mesh)
  room = model.shape.max_length - experiment.peft.places
  spoken = roles
  if kl_from is not None:
    asks, asked = True, Asked
    spoken = roles | {"reference": _there(kl_from, plan, mesh, roles)}
  drawing = answering.Drawing(experiment, model, tokenizer, spoken)
  out: dict[str, Measures] = {}
  compared: dict[str, pairs.Completions] = {}
  classified: dict[str, classes.Classified] = {}
  said: dict[str, dict[str, Any]] = {}
  told: dict[str, tasks.Measured] = {}
  for d in datasets:
    where = d.settings.data
    parts: dict[str, Measures] = {}
    if isinstance(where, Preferences) and experiment.draws:
      found: Measures = {}  # it is judged by what it answers
    elif isinstance(where, Preferences):
      found, rewards = compare(
        where, roles, d.rows(), d.compared(), d.together, d.name
      )
      if where.rows != "classes":
        if rewards is not None:
          compared[d.name] = rewards
      else:
        if rewards is not None:
          parts["pairs"] = pairs.measure(rewards)
        its = compare.classified(roles, d.rows(), d.num_batches, d.name)
        if its is not None:
          classified[d.name] = its
          found |= classes.measure(its)
    elif d.marked is not None:
      told[d.name] = marking.measure(experiment, model, mesh, roles, d)
      found = told[d.name].measures
    elif isinstance(where, Examples):
      told[d.name] = tasks.measure(experiment, model, mesh, roles, d)
      found = told[d.name].measures
    else:
      bar = progress(d.rows(), d.num_batches, f"evaluating {d.name}")
      found = score(roles, bar, where)
    if not isinstance(where, Preferences) and d.examples:
      examples, size = with_room(d, tokenizer, room)
      answer = asking.answerer(experiment, model, tokenizer, where)
      prompts = [e.prompt_ids for e in examples]
      answers = progress(
        answer(roles["policy"], prompts, _LONGER + size),
        len(examples),
        f"answering {d.name}",
      )
      texts = [tokenizer.decode(ids) for ids in answers]
      references = [e.reference for e in examples]
      kinds = [e.conversation.task for e in examples]
      found |= exact_match.evaluate(texts, references)
      parts = exact_match.by_task(texts, references, kinds)
    if d.gaps:
      wrap = functools.partial(
        progress, total=len(d.gaps), label=f"answering {d.name}"
      )
      answer = asking.answerer(experiment, model, tokenizer, where)
      found |= infilling.measure(
        d.gaps, answer, roles["policy"], tokenizer, wrap
      )
    compares = asks and isinstance(where, asked)
    if d.is_asked and _speaks(experiment) and (judging or compares):
      drawn, judged = drawing.measure(d.name, where, d.examples, judging)
      found |= drawn
      if judged:
        said[d.name] = judged
    if found:
      out[d.name] = found
    out |= {f"{d.name}: {task}": its for task, its in parts.items()}
  return _Measured(at, out, compared, classified, said, told)


def _there(
  kl_from: str, plan: state_plan.Plan, mesh: Mesh, roles: Roles
) -> dict[str, Any]:
  """Variables of the run that KL is from; a head that it lacks is not asked."""
  folder = weights.origin(kl_from, "kl_from")
  params = weights.base_of(folder, plan, mesh, "kl_from")
  own = roles["policy"]["params"].items()
  heads = {name: x for name, x in own if state_plan.is_output(name)}
  return {"params": {**heads, **params}}


def _part(datasets: list[Dataset], others: dict[str, Measures]) -> None:
  """Takes away what another objective measures in another unit."""
  for d in datasets:
    if isinstance(d.settings.data, Preferences):
      for name in ("loss", "margin", "ece"):
        others.get(d.name, {}).pop(name, None)


def _baselines(made: build.Data, split: str) -> dict[str, Measures]:
  """N-gram models, which learn from the training split."""
  token_bytes = np.asarray(made.tokenizer.token_bytes(), np.int64)
  assert not isinstance(
    made.tokens, Exampled | Marked
  )  # of which no token is told
  train_ids = np.asarray(made.tokens.tokens("train").ids[:BASELINE_TOKENS])
  ids = np.asarray(made.tokens.tokens(split).ids)
  vocab_size = len(token_bytes)
  return {
    "unigram": ngrams.unigram(train_ids, ids, vocab_size, token_bytes),
    "kneser_ney_5": ngrams.KneserNey(train_ids, vocab_size).evaluate(
      ids, token_bytes
    ),
  }
