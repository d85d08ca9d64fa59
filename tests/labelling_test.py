"""The verb `label`, by the command line."""

import dataclasses
import json

import pytest

from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.labelled import Labels
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.judges.rules import Length
from llm_jax.objectives.ranking import Ranking
from llm_jax.sharding.mesh import MeshShape
from tests import command

ROWS = [{"prompt": f"q{i}?", "completion": "yes"} for i in range(30)]
EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  data=Instructions(sources=(Conversations(),), length=16, validation=0.2),
  samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
  mesh=MeshShape(1, 1, 1),
  judge=Length(most=3),
  label=Labels(prompts=5, completions=2),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A run that answers questions, and a reward model."""
  folder = tmp_path_factory.mktemp("runs")
  rows = command.text_file(folder, "rows.jsonl", map(json.dumps, ROWS))
  said = command.call(
    "train", *command.train_flags(folder, rows), experiment=EXPERIMENT
  )
  assert said.code == 0, said.err
  pairs = [
    {"prompt": f"q{i}?", "chosen": "yes", "rejected": "no"} for i in range(30)
  ]
  path = command.text_file(folder, "pairs.jsonl", map(json.dumps, pairs))
  said = command.call(
    "train",
    *command.train_flags(folder, path)[1:],
    f"--workdir={folder / 'reward'}",
    experiment=dataclasses.replace(
      EXPERIMENT,
      model=dataclasses.replace(EXPERIMENT.model, outputs=1),
      objective=Ranking(),
      data=Preferences(sources=(PreferenceFiles(),), length=16, validation=0.2),
    ),
  )
  assert said.code == 0, said.err
  return folder


def flags(runs, into, *more):
  return [
    "label",
    f"--workdir={runs / 'run'}",
    f"--data.cache={runs / 'cache'}",
    f"--data.sources.0.paths={runs / 'rows.jsonl'}",
    f"--into={into}",
    *more,
  ]


def label(runs, into, *more, experiment=EXPERIMENT):
  said = command.call(*flags(runs, into, *more), experiment=experiment)
  assert said.code == 0, said.err
  return [json.loads(line) for line in into.read_text().splitlines()]


def refused(runs, into, *more, experiment=EXPERIMENT):
  there = into.read_bytes() if into.is_file() else None
  said = command.call(*flags(runs, into, *more), experiment=experiment)
  assert said.code == 2, said
  assert (into.read_bytes() if into.is_file() else None) == there
  return said.error


def preferences(path):
  source = PreferenceFiles(paths=(str(path),))
  return [source.read(json.loads(x), "") for x in path.read_text().splitlines()]


def test_rows_are_read_back_as_the_judge_said(runs, tmp_path):
  rows = label(runs, tmp_path / "a.jsonl")
  assert rows and all(r["reason"] for r in rows)
  found = preferences(tmp_path / "a.jsonl")
  for p in found:
    values = [-float(max(0, len(c.strip()) - 3)) for c in p.completions]
    values = [
      v - (not c.strip()) for v, c in zip(values, p.completions, strict=True)
    ]
    assert p.kind == "score" and p.values == (tuple(values),)
    assert p.prompt[0].content in {r["prompt"] for r in ROWS}
