"""The verb `label`, by the command line."""

import dataclasses
import json
import pathlib
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import build, claim, judging, state_plan, weights
from llm_jax import model as model_lib
from llm_jax.contracts import Question, Verdict
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.labelled import Labels
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.judges import rubric
from llm_jax.judges.endpoint import Endpoint
from llm_jax.judges.references import Exact
from llm_jax.judges.reward import RewardModel
from llm_jax.judges.rubric import Rubric
from llm_jax.judges.rules import Length
from llm_jax.objectives.ranking import Ranking
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers import store as tokenizers
from tests import command
from tests.judges.server import longer, SaidError, Server

ROWS = [{"prompt": f"q{i}?", "completion": "yes"} for i in range(30)]
EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  data=Instructions(sources=(Conversations(),), length=16, validation=0.2),
  samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
  mesh=MeshShape(1, 1, 1),
  judge=Length(most=3),
  label=Labels(prompts=5, completions=2),
)

REWARD = dataclasses.replace(
  EXPERIMENT,
  model=dataclasses.replace(EXPERIMENT.model, outputs=1),
  objective=Ranking(),
  data=Preferences(sources=(PreferenceFiles(),), length=16, validation=0.2),
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
    experiment=REWARD,
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
  for p in preferences(tmp_path / "a.jsonl"):
    assert p.kind == "score" and len(p.completions) == 2
    beyond = [-float(max(0, len(c.strip()) - 3)) for c in p.completions]
    assert p.values == (tuple(beyond),)
    assert p.prompt[0].content in {r["prompt"] for r in ROWS}


def test_a_run_is_trained_on_its_labels(runs, tmp_path):
  more = ("--label.prompts=0", "--label.labeller=me")
  label(runs, tmp_path / "a.jsonl", *more)
  said = command.call(
    "train",
    *command.train_flags(tmp_path, tmp_path / "a.jsonl"),
    "--data.length=32",
    experiment=dataclasses.replace(REWARD, steps=1),
  )
  assert said.code == 0, said.err


def test_the_best_are_conversations(runs, tmp_path):
  rows = label(runs, tmp_path / "a.jsonl", "--best", "--label.completions=4")
  assert len(rows) == 5
  source = Conversations()
  for row in rows:
    found = source.read(row, "here")
    assert row["score"] == -max(0, len(found.answer.strip()) - 3)
  # All of four, of which these are the best.
  every = label(
    runs,
    tmp_path / "b.jsonl",
    *("--best", "--label.completions=4", "--label.keep=4"),
  )
  best = {}
  for row in every:
    asked = json.dumps(row["messages"][:-1])
    best[asked] = max(best.get(asked, -99), row["score"])
  assert sorted(best.values()) == sorted(r["score"] for r in rows)
  accepted = label(
    runs,
    tmp_path / "c.jsonl",
    *("--best", "--label.completions=4", "--label.keep=4"),
    f"--label.accept={max(best.values())}",
  )
  assert accepted == [r for r in every if r["score"] == max(best.values())]


def test_a_models_own_samples_are_rejected_for_the_reference(runs, tmp_path):
  rows = label(
    runs,
    tmp_path / "a.jsonl",
    "--label.reference",
    "--label.completions=1",
    experiment=dataclasses.replace(EXPERIMENT, judge=Exact()),
  )
  assert rows
  for p in preferences(tmp_path / "a.jsonl"):
    assert p.completions[0] == "yes" and p.values == ((1.0, 0.0),)


def test_prompts_of_a_file_and_of_splits(runs, tmp_path):
  path = command.text_file(tmp_path, "prompts.txt", ["q3?", "new", "q3?"])
  rows = label(runs, tmp_path / "a.jsonl", f"--prompts_file={path}", "--best")
  asked = [r["messages"][0]["content"] for r in rows]
  assert sorted(asked) == ["new", "q3?"]
  by_split = {
    split: {
      r["messages"][0]["content"]
      for r in label(
        runs,
        tmp_path / f"{split}.jsonl",
        *("--best", f"--label.split={split}", "--label.prompts=0"),
        "--samples.max_new_tokens=2",
      )
    }
    for split in ("all", "train", "validation")
  }
  assert by_split["train"] and by_split["validation"]
  assert not by_split["train"] & by_split["validation"]
  assert by_split["all"] == by_split["train"] | by_split["validation"]


class Fails:
  """A judge that gives up after some verdicts, and counts what it is asked."""

  def __init__(self, after):
    self.after, self.asked = after, []

  def __call__(self, questions):
    for question in questions:
      if len(self.asked) == self.after:
        raise ValueError("no answer")
      self.asked.append(question.messages)
      yield Verdict((0.0, *[-1.0] * (len(question.completions) - 1)))


def judged_by(judge):
  return mock.patch.object(judging, "make", lambda *_: (judge, {"judge": 1}))


def test_what_was_judged_is_kept_and_not_asked_again(runs, tmp_path):
  whole, into = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
  with judged_by(Fails(-1)):
    label(runs, whole)
  first, second = Fails(3), Fails(-1)
  with judged_by(first):
    assert refused(runs, into) == "error: no answer"
  assert len(first.asked) == 3 and not into.exists()
  with judged_by(second):
    label(runs, into)
  assert len(second.asked) == 2
  assert not {*first.asked} & {*second.asked}
  assert into.read_bytes() == whole.read_bytes()
  # Nothing is asked of what is there; more prompts are asked alone.
  with judged_by(third := Fails(0)):
    label(runs, into)
  with judged_by(third := Fails(-1)):
    rows = label(runs, into, "--label.prompts=8")
  assert len(third.asked) == 3 and len(rows) > 5
  # Mutant: a journal that forgets has everything asked again.
  path = pathlib.Path(f"{whole}.asked")
  path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
  with judged_by(third := Fails(-1)):
    label(runs, whole)
  assert len(third.asked) == 5


@pytest.mark.optimised
def test_eight_devices_and_other_batches_label_alike(runs, tmp_path):
  rows = label(runs, tmp_path / "a.jsonl")
  for i, more in enumerate(("--mesh.data=8", "--batch_size=4")):
    into = tmp_path / f"{i}.jsonl"
    assert label(runs, into, more) == rows
  # Other seeds draw other completions.
  assert label(runs, tmp_path / "b.jsonl", "--seed=1") != rows


def test_other_settings_do_not_mix(runs, tmp_path):
  into = tmp_path / "a.jsonl"
  label(runs, into)
  for more in (
    "--seed=1",
    "--judge.most=4",
    "--label.completions=3",
    "--samples.max_new_tokens=3",
    "--samples.sampler.top_k=3",
    "--samples.stop=x",
    "--best",
  ):
    error = refused(runs, into, more)
    assert "is being labelled with other settings" in error
    assert f"{more.split('=')[0]}: " in error
  # What decides nothing may change.
  label(runs, into, "--batch_size=16", "--label.labeller=me")
  # A run that was trained on is another.
  copy = shutil.copytree(runs, tmp_path / "copy")
  said = command.call(
    "train",
    *command.train_flags(copy, runs / "rows.jsonl"),
    "--steps=3",
    experiment=EXPERIMENT,
  )
  assert said.code == 0, said.err
  assert "checkpoint: " in refused(copy, into)


def test_a_judge_behind_an_address(runs, tmp_path, monkeypatch):
  key = "sk-0123456789"
  monkeypatch.setenv("no_proxy", "*")
  monkeypatch.setenv("JUDGE_KEY", key)

  def script(n, shown):
    if n == 5:
      raise SaidError(401, f"bad key {key}".encode())
    return longer(n, shown)

  with Server(script) as server:
    judge = Endpoint(
      url=server.url,
      model="m",
      key="JUDGE_KEY",
      concurrency=1,
      cache=str(tmp_path / "answers"),
    )
    experiment = dataclasses.replace(EXPERIMENT, judge=judge)
    into = tmp_path / "a.jsonl"
    said = command.call(*flags(runs, into), experiment=experiment)
    assert said.code == 2 and "status 401" in said.error
    assert "2 of 5 prompts are labelled and kept in" in said.err
    label(runs, into, experiment=experiment)
    assert len(server.requests) == 11  # each comparison, and the failed one
  for p in preferences(into):
    (longest,) = {len(p.completions[p.ranks().index(0)])}
    assert longest == max(map(len, p.completions))
  assert key not in said.out + said.err
  files = [p for p in tmp_path.rglob("*") if p.is_file()]
  assert len(files) == 12
  assert not any(key in p.read_text() for p in files)


def test_a_reward_model_says_what_it_says_in_training(runs):
  where = runs / "reward"
  raw = RewardModel(run=str(where), normalised=False)
  settings = dataclasses.replace(EXPERIMENT, judge=raw)
  mesh, its = mesh_lib.make(settings.mesh), claim.settings(where)
  with jax.set_mesh(mesh):
    judge, about = judging.make(settings, runs / "run", None, mesh)
    assert about["run"] != str(where)  # but what is in it
    asked = [Question((("user", f"q{i}?"),), ("yes", "no")) for i in range(30)]
    found = [v.scores for v in judge(asked)]
    tokenizer = tokenizers.load(where / "tokenizer")
    model = model_lib.make(its, tokenizer)
    plan = state_plan.make(its, model, mesh)
    _, roles = weights.load(its, plan, mesh, where)
    forward = state_plan.forward(model)
    rewards = jax.jit(lambda r, b: its.objective.rewards(forward, r, b))
    batches = build.tokens(its.data, tokenizer).held_out("train", 8)
    want = []
    for i in range(len(batches)):
      pairs = jax.device_get(rewards(roles, batches[i])).reshape(-1, 2)
      want += pairs[batches[i]["mask_BT"].any(-1)[::2]].tolist()
  assert len(want) > 15
  near = lambda a, b: np.allclose(a, b, rtol=1e-5, atol=1e-6)
  assert all(any(near(w, f) for f in found) for w in want)
  # Mutant: chosen and rejected the other way round.
  assert not any(near(w[::-1], f) for f in found for w in want)


def test_a_models_likelihoods_are_those_of_its_next_tokens(runs):
  experiment = dataclasses.replace(
    claim.settings(runs / "run"), judge=Rubric(rubric="?")
  )
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    its = judging._Model(experiment, runs / "run", None, mesh, 8)
    # All that may come next, and the same in two steps.
    one = list(its.likelihood([("q", chr(i)) for i in range(128)]))
    a, ab = its.likelihood([("q", "a"), ("q", "ab")])
    assert 0 < np.exp(one).sum() < 1 and a == pytest.approx(one[ord("a")])
    assert ab < a
    # A row says the same wherever it stands.
    rows = [("q", "a"), ("longer", "b"), ("q", "b")]
    np.testing.assert_allclose(
      list(its.likelihood(rows * 4))[9:], list(its.likelihood(rows)), rtol=1e-5
    )
    assert list(its.likelihood(rows[1:2])) == [list(its.likelihood(rows))[1]]
    with pytest.raises(ValueError, match="longer than the 32 that the judge"):
      list(its.likelihood([("q" * 40, "a")]))


def test_a_model_judges_itself_by_a_rubric(runs, tmp_path):
  into = tmp_path / "a.jsonl"
  judge = Rubric(rubric="?")
  experiment = dataclasses.replace(
    EXPERIMENT,
    judge=judge,
    samples=dataclasses.replace(EXPERIMENT.samples, max_new_tokens=1),
  )
  with mock.patch.object(rubric, "asking", lambda _, two: two.first[:4]):
    said = command.call(*flags(runs, into), experiment=experiment)
  assert said.code == 0 or "nothing to write" in said.error
  if into.exists():
    assert {p.kind for p in preferences(into)} == {"order"}


def test_what_cannot_be_labelled_is_refused(runs, tmp_path):
  into = tmp_path / "a.jsonl"
  replace = dataclasses.replace
  cases = [
    ("--into=x.txt", "--into=x.txt: expected a file that ends in .jsonl"),
    ("--label.completions=1", "--label.completions=1: a preference needs two"),
    ("--samples.sampler.temperature=0", "would all be the same"),
    ("--prompt=a", "--prompt: read by generate only"),
    ("--label.split=test", "the test split is empty"),
    ("--samples.max_new_tokens=40", "leave no room for"),
    ("--checkpoint_step=9", "--checkpoint_step=9"),
    ("--prompts_file=nowhere", "--prompts_file=nowhere: cannot be read"),
  ]
  for flag, error in cases:
    given = [
      f for f in flags(runs, into) if f.split("=")[0] != flag.split("=")[0]
    ]
    said = command.call(*given, flag, experiment=EXPERIMENT)
    assert said.code == 2 and error in said.error, flag
  empty = command.text_file(tmp_path, "empty.txt", ["a", " ", "b"])
  assert "line 2 is empty" in refused(runs, into, f"--prompts_file={empty}")
  assert "have no known answers" in refused(
    runs, into, f"--prompts_file={empty}", "--label.reference"
  )
  for judge, error in (
    (RewardModel(), "--judge.run: no run folder"),
    (RewardModel(run=str(tmp_path / "x")), "holds no run"),
    (RewardModel(run=str(runs / "run")), "Causal, which has no rewards"),
    (Endpoint(), "--judge.model: no name"),
  ):
    experiment = replace(EXPERIMENT, judge=judge)
    assert error in refused(runs, into, experiment=experiment)
  text = replace(EXPERIMENT, data=command.EXPERIMENT.data)
  assert "--data (Text): has no prompts" in refused(runs, into, experiment=text)
  taken = command.text_file(tmp_path, "taken.jsonl", ["{}"])
  assert "is there already" in refused(runs, taken)
  said = command.call("label", f"--workdir={runs / 'run'}")
  assert "--into: no .jsonl given" in said.error
  said = command.call("generate", "--judge.most=3", experiment=EXPERIMENT)
  assert "--judge.most: read by evaluate, label only, not by gen" in said.error
  assert not into.exists()


def test_nothing_to_write_is_told(runs, tmp_path):
  into = tmp_path / "a.jsonl"
  error = refused(runs, into, "--judge.most=99", "--judge.least=0")
  assert "nothing to write: 5 prompts -> 0 rows" in error and "ties" in error
  assert not into.exists()
