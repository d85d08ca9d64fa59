"""What a model tells at positions of texts, measured: tags of words, answers.

Dimension key: B rows; T positions; O outputs; W words; N questions.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from llm_jax import axes, measuring, state_plan
from llm_jax.contracts import Batch, Roles
from llm_jax.data.passage import Passage
from llm_jax.data.tagged import Tagged
from llm_jax.data.windowed import Windowed
from llm_jax.datasets import Dataset
from llm_jax.evaluation import entities, spans, squad
from llm_jax.experiment import Experiment
from llm_jax.model import Model
from llm_jax.objectives.spans import Spans
from llm_jax.objectives.tagging import outputs
from llm_jax.reporting import files
from llm_jax.reporting.progress import progress
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tasks import Measured

_BEST = 20  # answers to a question that are written down


def measure(
  experiment: Experiment, model: Model, mesh: Mesh, roles: Roles, d: Dataset
) -> Measured:
  """Loss and figures of a dataset that `tasks.check` has seen."""
  objective, tokens = experiment.objective, d.marked
  tell = measuring.teller(objective, model, mesh)
  loss, _ = tell(roles, d.rows(), False, progress, d.name)
  said = _said(model, mesh, roles, d)
  if isinstance(tokens, Tagged):
    found = _tags(tokens, d.settings.split, said)
  else:
    assert isinstance(tokens, Windowed) and isinstance(objective, Spans)
    found = _answers(tokens, d.settings.split, said, objective)
  return found._replace(measures={"loss": loss["loss"], **found.measures})


def _said(
  model: Model, mesh: Mesh, roles: Roles, d: Dataset
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
  """What the output head says of each batch, and which rows these are."""
  score = state_plan.forward(model)["policy"]

  @jax.jit
  def ask(roles: Roles, batch: Batch) -> tuple[jax.Array, Batch]:
    output_BTO = outputs(score(roles["policy"], batch), "more")
    names = ("mask_BT", "word_BT", "row_B")
    about = {n: batch[n] for n in names if n in batch}
    whole = lambda x: axes.constrain(x, "_" * x.ndim)
    return jax.tree.map(whole, (output_BTO, about))

  for batch in progress(d.rows(), d.num_batches, f"telling {d.name}"):
    yield jax.device_get(ask(roles, mesh_lib.place(batch, mesh)))


def _tags(tokens: Tagged, split: str, said: Iterable[Any]) -> Measured:
  sentences = tokens.sentences(split)
  tag_W = np.full(sum(len(s.words) for s in sentences), -1)
  for output_BTO, about in said:
    mask_BT = about["mask_BT"]
    tag_W[about["word_BT"][mask_BT]] = output_BTO.argmax(-1)[mask_BT]
  words: Iterator[int] = iter(tag_W.tolist())
  read, meant, told = [], [], []
  for sentence in sentences:
    its = [next(words) for _ in sentence.words]
    if -1 in its:  # of the first batches alone
      continue
    read.append(sentence.words)
    meant.append(sentence.tags)
    told.append([tokens.classes[n] for n in its])
  simple = _most_frequent(tokens, read)
  lines = [
    # White space parts columns, so that none is left in a word.
    "".join(
      f"{'_'.join(w.split())} {t} {s}\n" for w, t, s in zip(*rows, strict=True)
    )
    for rows in zip(read, meant, told, strict=True)
  ]
  return Measured(
    entities.measure(told, meant),
    {"most_frequent_tag": entities.measure(simple, meant)},
    {"classes": entities.of_each(told, meant)},
    {".conll": "\n".join(lines)},
  )


def _most_frequent(tokens: Tagged, sentences: list[Any]) -> list[list[str]]:
  """Of each word its most frequent tag in the training split.

  Of a word that is not there, the most frequent of all.
  """
  counts = tokens.train_counts()
  total: collections.Counter[str] = collections.Counter()
  for its in counts.values():
    total.update(its)
  most = lambda its: min(its, key=lambda tag: (-its[tag], tag))
  known = {word: most(its) for word, its in counts.items()}
  other = most(total) if total else tokens.classes[0]
  return [[known.get(w, other) for w in words] for words in sentences]


class _Answer(NamedTuple):
  """What is told of a question, of all windows of its text."""

  best: list[tuple[str, float]]  # texts, each once, with their scores
  over: float  # by how much no answer scores more than the best


def _answers(
  tokens: Windowed, split: str, said: Iterable[Any], objective: Spans
) -> Measured:
  passages = tokens.passages(split)
  found = _found(tokens, split, passages, said, objective.longest)
  truths = {name: its.truths for name, its in passages.items() if name in found}
  texts = {
    name: its.best[0][0] if its.best else "" for name, its in found.items()
  }
  over = {name: its.over for name, its in found.items()}
  silent = lambda name: tokens.has_none and over[name] > objective.threshold
  told = {name: "" if silent(name) else text for name, text in texts.items()}
  best = {
    name: [{"text": text, "score": score} for text, score in its.best]
    for name, its in found.items()
  }
  measures = squad.evaluate(told, truths)
  written: dict[str, Any] = {".json": told, ".best.json": best}
  if tokens.has_none:
    measures |= squad.best_thresholds(texts, over, truths)
    written[".none.json"] = over
    simple = {"no_answer": dict.fromkeys(truths, "")}
  else:
    word = lambda name: passages[name].context.split()[0]
    simple = {"first_word": {name: word(name) for name in truths}}
  baselines = {n: squad.evaluate(its, truths) for n, its in simple.items()}
  return Measured(measures, baselines, {}, written)


def _found(
  tokens: Windowed,
  split: str,
  passages: Mapping[str, Passage],
  said: Iterable[Any],
  longest: int,
) -> dict[str, _Answer]:
  """By id, of the questions all windows of which were read."""
  windows, place_R = tokens.windows(split)
  names, left = list(passages), np.bincount(windows.question_R)
  scored: dict[str, list[tuple[spans.Span, str]]] = {}
  none: dict[str, float] = {}
  for output_BT2, about in said:
    for output_T2, mask_T, r in zip(
      output_BT2, about["mask_BT"], about["row_B"].tolist(), strict=True
    ):
      if not mask_T.any():  # it fills up the batch
        continue
      n = int(windows.question_R[r])
      name, left[n] = names[n], left[n] - 1
      begin, place_W2 = int(windows.begin_R[r]), place_R[r]
      end = begin + len(place_W2)
      score = float(output_T2[0 if tokens.none_first else end].sum())
      none[name] = min(none.get(name, np.inf), score)
      start_W, end_W = output_T2[begin:end].T
      its = scored.setdefault(name, [])
      for span in spans.best(start_W, end_W, longest, _BEST):
        a, b = place_W2[span.first, 0], place_W2[span.last, 1]
        its.append((span, passages[name].context[a:b].strip()))
  out = {}
  for n, name in enumerate(names):
    if left[n]:  # of the first batches alone
      continue
    at_none = none[name]
    best: dict[str, float] = {}
    for span, text in sorted(scored[name], key=lambda its: -its[0].score):
      if text:
        best.setdefault(text, span.score)
    top = list(best.items())[:_BEST]
    out[name] = _Answer(top, at_none - top[0][1] if top else np.inf)
  return out


def write(folder: pathlib.Path, name: str, found: Measured) -> None:
  """Writes what was told into a run's folder, as official scripts read it."""
  for ending, value in found.written.items():
    path = folder / "predictions" / f"{name}{ending}"
    if isinstance(value, str):
      files.write_text(path, value)
    else:
      files.write_json(path, value)
