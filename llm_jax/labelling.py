"""The verb `label`: prompts + a run + a judge -> preferences, or answers."""

from collections.abc import Iterator, Sequence
import contextlib
import json
import pathlib
from typing import Any

import jax

from llm_jax import (
  asking,
  checks,
  config,
  judging,
  prompting,
  state_plan,
  storage,
  weights,
)
from llm_jax import model as model_lib
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Judge, Question, Tokenizer
from llm_jax.data import chat
from llm_jax.data.labelled import Journal, Judged
from llm_jax.experiment import Asked, DataSettings, Experiment
from llm_jax.generation.text import Generator
from llm_jax.prompting import Prompt
from llm_jax.reporting import files
from llm_jax.reporting.progress import progress, say, waiting
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers import store as tokenizers


def label(
  experiment: Experiment,
  data: DataSettings,
  folder: pathlib.Path,
  step: int | None,
  prompts_file: str | None,
  into: str,
  best: bool,
) -> int:
  """Has completions of a run judged, and writes them as rows to train on.

  Args:
    experiment: the run's settings, with the judge.
    data: whose prompts, unless a file has them.
    folder: of the run.
    step: of its checkpoint; None is the newest.
    prompts_file: a prompt a line.
    into: .jsonl to write; what is judged is kept beside it at once.
    best: the best completions as conversations, not preferences.

  Raises:
    ValueError: bad settings; a judge that gives no answer.
  """
  _check(experiment, data, prompts_file, into, best)
  checks.checkpoint(folder, step)
  mesh = mesh_lib.make(experiment.mesh)
  mesh_lib.share(mesh, experiment.batch_size)
  with contextlib.ExitStack() as held, jax.set_mesh(mesh):
    tokenizer = tokenizers.load(folder / "tokenizer")
    prompts = list(prompting.find(experiment, data, tokenizer, prompts_file))
    judge, about = judging.make(experiment, folder, step, mesh)
    model = model_lib.make(experiment, tokenizer)
    plan = state_plan.make(experiment, model, mesh)
    with waiting("loading the model"):
      at, roles = weights.load(experiment, plan, mesh, folder, step)
    journal = Journal(
      pathlib.Path(f"{into}.asked"),
      _about(experiment, folder, at, about, best),
      f"--into={into}",
    )
    held.enter_context(journal)
    draw = _Draw(experiment, model, tokenizer, roles["policy"])
    todo = [p for p in prompts if p.key not in journal]
    if len(todo) < len(prompts):
      say(f"{len(prompts) - len(todo)} prompts are labelled already")
    found = _judged(experiment, draw, judge, todo)
    try:
      for prompt, judged in progress(found, len(todo), "labelling"):
        journal.add(prompt.key, judged)
    except BaseException:
      done = sum(p.key in journal for p in prompts)
      say(
        f"{done} of {len(prompts)} prompts are labelled and kept in"
        f" {into}.asked; the same command goes on from there"
      )
      raise
    everything = [journal[p.key] for p in prompts]
    _write(experiment, everything, pathlib.Path(into), best)
  return 0


def _check(
  experiment: Experiment,
  data: DataSettings,
  prompts_file: str | None,
  into: str,
  best: bool,
) -> None:
  """ValueError where it can be seen at once that nothing will come of it."""
  settings, sampler = experiment.label, experiment.samples.sampler
  if jax.process_count() > 1:
    raise ValueError("label: runs in one process; leave out --coordinator")
  if not into.endswith(".jsonl"):
    raise ValueError(f"--into={into}: expected a file that ends in .jsonl")
  path = storage.local(into, "into")
  if path.is_dir() or (
    path.exists() and not pathlib.Path(f"{into}.asked").exists()
  ):
    raise ValueError(
      f"--into={into}: is there already, and not from labelling; name another"
    )
  count = settings.completions
  if count > 1 and sampler.temperature == 0:
    raise ValueError(
      f"--label.completions={count}: would all be the same with"
      " --samples.sampler.temperature=0"
    )
  if not best and count + settings.reference < 2:
    raise ValueError(
      f"--label.completions={count}: a preference needs two; raise it, or"
      " compare it with --label.reference"
    )
  if prompts_file is None and not isinstance(data, Asked):
    raise ValueError(
      f"--data ({type(data).__name__}): has no prompts; give --prompts_file,"
      " or use an experiment whose data are instructions or preferences"
    )
  if prompts_file is not None and settings.reference:
    raise ValueError(
      "--label.reference: prompts of --prompts_file have no known answers"
    )


def _about(
  experiment: Experiment,
  folder: pathlib.Path,
  step: int,
  judge: dict[str, Any],
  best: bool,
) -> dict[str, Any]:
  """Whatever decides what is drawn, and how it is judged."""
  samples, settings = experiment.samples, experiment.label
  where = experiment.data
  template = ""
  if isinstance(where, Asked):
    template = chat.Template(where.template).source
  return {
    "checkpoint": Store(folder / "checkpoints").checksum(step),
    "template": template,
    "--samples.sampler": config.to_json(samples.sampler),
    "--samples.max_new_tokens": samples.max_new_tokens,
    "--samples.stop": samples.stop,
    "--seed": experiment.seed,
    "--label.completions": settings.completions,
    "--label.reference": settings.reference,
    "--judge": judge,
    "--best": best,
  }


class _Draw:
  """Completions of prompts; the same ones, whatever else is in a batch."""

  def __init__(
    self, experiment: Experiment, model: Any, tokenizer: Tokenizer, policy: Any
  ):
    self._experiment, self._policy = experiment, policy
    self._ids: dict[str, list[int]] = {}
    self._generate = Generator(
      tokenizer,
      model.decode,
      model.open_cache,
      model.shape.max_length - experiment.peft.places,
      [lambda text: self._ids[text]],
      asking.stop_ids(experiment.data, tokenizer),
      apart=model.shape.reads_sources,
    )

  def __call__(self, prompts: Sequence[Prompt]) -> list[list[str]]:
    """`label.completions` of each."""
    e, count = self._experiment, self._experiment.label.completions
    texts = [json.dumps(p.messages) for p in prompts]
    self._ids = {t: p.ids for t, p in zip(texts, prompts, strict=True)}
    # As many rows each time: compiled once.
    size = _together(e)
    rows = [t for t in texts for _ in range(count)]
    rows += rows[-1:] * (size * count - len(rows))
    found = self._generate(
      self._policy,
      rows,
      max_new_tokens=e.samples.max_new_tokens,
      sampler=e.samples.sampler,
      seed=e.seed,
      stop=e.samples.stop,
    )
    return [found[i * count : (i + 1) * count] for i in range(len(prompts))]


def _together(experiment: Experiment) -> int:
  """Prompts that are completed at once."""
  return max(1, experiment.batch_size // experiment.label.completions)


def _judged(
  experiment: Experiment, draw: _Draw, judge: Judge, prompts: list[Prompt]
) -> Iterator[tuple[Prompt, Judged]]:
  """Yields each prompt with its completions, as soon as they are judged."""
  by_width: dict[int, list[Prompt]] = {}
  for p in prompts:
    by_width.setdefault(asking.width(1 + len(p.ids)), []).append(p)
  size = _together(experiment)
  batches = [
    alike[at : at + size]
    for _, alike in sorted(by_width.items())
    for at in range(0, len(alike), size)
  ]
  for here in batches:
    asked = []
    for prompt, texts in zip(here, draw(here), strict=True):
      if experiment.label.reference and prompt.reference is not None:
        texts = [prompt.reference, *texts]
      different = tuple(dict.fromkeys(t for t in texts if t.strip()))
      asked.append(Question(prompt.messages, different, prompt.reference))
    for prompt, q, v in zip(here, asked, judge(asked), strict=True):
      yield (
        prompt,
        Judged(
          prompt.messages,
          q.completions,
          v.scores,
          v.ordinal,
          v.reason,
          prompt.place,
          prompt.task,
        ),
      )


def _write(
  experiment: Experiment, found: list[Judged], into: pathlib.Path, best: bool
) -> None:
  """Rows of all prompts, in their order; says what did not become one."""
  settings = experiment.label
  rows = [
    j.best(settings.keep, settings.accept)
    if best
    else j.rows(settings.labeller)
    for j in found
  ]
  few = sum(len(j.completions) < (1 if best else 2) for j in found)
  left = sum(not r for r in rows) - few
  why = "have no accepted one" if best else "are ties"
  size = sum(map(len, rows))
  said = (
    f"{len(found)} prompts -> {size} rows; {few} without"
    f" {'a completion' if best else 'two different completions'}, {left} {why}"
  )
  if not size:
    raise ValueError(f"--into={into}: nothing to write: {said}")
  text = "".join(
    json.dumps(row, ensure_ascii=False) + "\n" for each in rows for row in each
  )
  files.write_text(into, text)
  say(f"{into}: {said}")
