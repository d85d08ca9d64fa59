"""`evaluate` on other data and beside another run, by the command line."""

import dataclasses
import json
import shutil

import pytest

from llm_jax import datasets, evaluating, weights
from llm_jax.data.conversation import Conversation, Message
from llm_jax.data.conversations import Conversations
from llm_jax.data.files import Files
from llm_jax.data.instructions import Instructions
from llm_jax.data.questions import Example
from llm_jax.data.text import Text
from llm_jax.experiment import Evaluation
from llm_jax.tokenizers import store
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from tests import command

MEASURES = ["loss", "perplexity", "bits_per_byte", "token_accuracy"]
TASKS = ("question_answering", "translation")
QUICK = ("--novalidation.baselines",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Two runs, the second of which began with the first."""
  folder = tmp_path_factory.mktemp("evaluating")
  shutil.copytree(command.trained(tmp_path_factory), folder, dirs_exist_ok=True)
  path = command.text_file(
    folder, "other.txt", [f"zz top {i} " * 4 for i in range(60)]
  )
  flags = command.train_flags(folder, path)[1:]
  said = command.call(
    "train",
    f"--workdir={folder / 'tuned'}",
    f"--init_from={folder / 'run'}",
    "--optimizer.peak=0.1",
    "--samples.every=0",
    *flags,
  )
  assert said.code == 0, said.err
  return folder


def _experiment(folder, **changes):
  """Measured also on the first run's text, and on questions of two tasks."""
  sources = []
  for task in TASKS:
    rows = [{"q": f"{task[0]}{i}", "a": f"a{i}"} for i in range(20)]
    path = command.text_file(folder, f"{task}.jsonl", map(json.dumps, rows))
    sources.append(
      Conversations(paths=(str(path),), task=task, prompt="{q}", answer="a")
    )
  cache = str(folder / "cache")
  instructions = Instructions(
    sources=tuple(sources),
    length=16,
    validation=0.3,
    cache=cache,
  )
  text = Text(
    sources=(Files(paths=(str(folder / "text.txt"),), split_by="line"),),
    length=16,
    validation=0.2,
    cache=cache,
  )
  evaluations = (
    Evaluation("text", text, batches=1),
    dataclasses.replace(
      Evaluation("questions", instructions, questions=8), **changes
    ),
  )
  return dataclasses.replace(command.EXPERIMENT, evaluations=evaluations)


def test_other_data_and_another_run_are_measured_alike(runs):
  experiment = _experiment(runs)
  said = command.call(
    "evaluate",
    f"--workdir={runs / 'tuned'}",
    f"--against={runs / 'run'}",
    *QUICK,
    experiment=experiment,
  )
  assert said.code == 0, said.err
  found = json.loads((runs / "tuned/evaluation.json").read_text())
  each = [f"questions: {task}" for task in TASKS]
  assert list(found["datasets"]) == ["data", "text", "questions", *each]
  asked, *parts = (found["datasets"][name] for name in ("questions", *each))
  assert asked["questions"] == 8 and 0 <= asked["exact_match"] <= 1
  assert sum(p["questions"] for p in parts) == 8
  assert all(p["questions"] for p in parts)
  assert "exact_match" not in found["datasets"]["text"]
  against = found["against"]
  gains = {
    (r["dataset"], r["measure"]): r["gain"] for r in against["comparison"]
  }
  assert list(gains) == [
    *(("data", m) for m in MEASURES),
    *(("text", m) for m in MEASURES),
    *(("questions", m) for m in (*MEASURES, "exact_match")),
    *((name, "exact_match") for name in each),
  ]
  assert gains["data", "loss"] > 0  # it was trained on that
  assert gains["text", "loss"] == (
    against["datasets"]["text"]["loss"] - found["datasets"]["text"]["loss"]
  )
  assert "gained" in said.out and "questions" in said.out
  page = (runs / "tuned/report.html").read_text()
  assert "Gained and lost" in page
  for name in each:  # among the measures and among what was gained
    assert said.out.count(name) == 2 and page.count(f"<td>{name}</td>") == 2

  # The first run says of itself what the second said of it.
  said = command.call(
    "evaluate", f"--workdir={runs / 'run'}", *QUICK, experiment=experiment
  )
  assert said.code == 0, said.err
  alone = json.loads((runs / "run/evaluation.json").read_text())
  assert "against" not in alone
  for name in ("text", "questions"):
    assert alone["datasets"][name] == against["datasets"][name]


def test_what_is_named_is_measured_alone(runs, monkeypatch):
  """Without the run's own data being read, which may take long."""
  monkeypatch.delattr("llm_jax.build.data")
  experiment = _experiment(runs)
  asked = ["evaluate", f"--workdir={runs / 'tuned'}", *QUICK]
  said = command.call(*asked, "--only=text", experiment=experiment)
  assert said.code == 0, said.err
  found = json.loads((runs / "tuned/evaluation.json").read_text())
  assert list(found["datasets"]) == ["text"]
  assert found["results"] == {"model": found["datasets"]["text"]}
  said = command.call(*asked, "--only=text,txt", experiment=experiment)
  assert said.code == 2
  assert said.err.strip() == (
    "error: --only=txt: must be of the data there are: data, text, questions"
  )


def test_another_run_must_be_one_and_read_the_same_tokens(runs, tmp_path):
  flags = ["evaluate", f"--workdir={runs / 'tuned'}"]
  for flag in ("against", "kl_from"):
    said = command.call(*flags, f"--{flag}={tmp_path}")
    assert said.code == 2
    assert said.error == f"error: --{flag}={tmp_path}: holds no trained run"
  other = tmp_path / "other"
  shutil.copytree(runs / "run", other)
  shutil.rmtree(other / "tokenizer")
  store.obtain(
    SentencePiece(kind="char"), lambda: iter(["ab"]), other / "tokenizer"
  )
  for flag in ("against", "kl_from"):
    said = command.call(*flags, f"--{flag}={other}")
    assert said.code == 2 and "its tokenizer is not that of" in said.error
  said = command.call("train", "--against=x", f"--workdir={tmp_path / 'new'}")
  assert said.error == "error: --against: read by evaluate only, not by train"


@pytest.mark.parametrize(
  ("changes", "line"),
  [
    ({"split": "tset"}, "--evaluations.1 (questions): "),
    ({"shots": 9}, "questions: 8 of 8 questions are, with"),
  ],
)
def test_data_that_cannot_be_measured_is_one_line(runs, changes, line):
  said = command.call(
    "evaluate",
    f"--workdir={runs / 'tuned'}",
    *QUICK,
    experiment=_experiment(runs, **changes),
  )
  assert said.code == 2 and line in said.error


def test_questions_without_room_for_their_answers_are_left_out(capsys):
  turns = (Message("user", "?"), Message("assistant", "!"))
  answers = ["ab", "a" * 5, "abc", ""]
  examples = [Example([1] * 6, a, Conversation(turns)) for a in answers]
  d = datasets.Dataset(Evaluation("asked"), [], 0, examples)
  # Mutant: the token that begins a document is forgotten.
  for room, want in ((12, 4), (11, 3), (10, 3), (9, 2), (7, 1)):
    kept, longest = datasets.with_room(d, ByteTokenizer(), room)
    assert len(kept) == want
    assert longest == max(len(e.reference) for e in kept)
    said = capsys.readouterr().err
    assert (f"asked: {4 - want} of 4 questions are" in said) == (want < 4)
  with pytest.raises(ValueError, match="asked: 4 of 4 questions are, with"):
    datasets.with_room(d, ByteTokenizer(), 6)


def test_a_row_longer_than_the_model_is_refused(runs):
  said = command.call(
    "evaluate",
    f"--workdir={runs / 'tuned'}",
    "--evaluations.1.data.length=64",
    experiment=_experiment(runs),
  )
  assert said.error == (
    "error: --evaluations.1.data.length=64: longer than --model.max_length=32"
  )


@pytest.mark.parametrize("name", ["", "data", "text"])
def test_every_name_is_one_dataset_s(runs, name):
  with pytest.raises(ValueError, match=rf"--evaluations\.1\.name={name}: "):
    _experiment(runs, name=name)


def test_a_head_that_the_reference_lacks_is_the_policy_s_own(monkeypatch):
  """It is there to be read, and says nothing of tokens."""
  monkeypatch.setattr(weights, "origin", lambda run, flag: run)
  monkeypatch.setattr(weights, "base_of", lambda *_: {"embedding": 1})
  own = {"embedding": 2, weights.OUTPUT_HEAD: 3}
  there = lambda params: evaluating._there(
    "x", None, None, {"policy": {"params": params}}
  )
  assert there(own) == {"params": own | {"embedding": 1}}
  assert there({"embedding": 2}) == {"params": {"embedding": 1}}
