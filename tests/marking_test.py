"""Runs that tag words and answer questions: trained, resumed, measured."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import sameness
from llm_jax import marking
from llm_jax.data.passage_sources import PassageFiles
from llm_jax.data.passages import Passages
from llm_jax.data.tag_sources import TagFiles
from llm_jax.data.tags import Tags
from llm_jax.evaluation import squad
from llm_jax.experiment import Samples, Validation
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.objectives.spans import Spans
from llm_jax.objectives.tagging import Tagging
from llm_jax.sharding.mesh import MeshShape
from tests import command
from tests.data import marks_test

WORDS = ["red", "Rome", "Ada", "blue", "Oslo", "Bob", "runs"]
NAMES = ("O", "B-NAME", "I-NAME")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("marking")


def sentence(i):
  words = [WORDS[(i * k + k) % 7] for k in range(1, 5)]
  words.append("of\nnote")  # one word, as lists can have it
  tags = ["B-NAME" if w[0].isupper() else "O" for w in words]
  return json.dumps({"words": words, "tags": tags})


def question(i):
  context = f"{WORDS[i % 7]} saw {WORDS[(3 * i) % 7]} in {i}"
  answer = [{"text": str(i), "answer_start": len(context) - len(str(i))}]
  return {
    "id": f"q{i}",
    "question": f"when {WORDS[i % 7]}?",
    "context": context,
    "answers": answer if i % 2 else [],
  }


def experiment(kind, home, family="encoder"):
  base = command.EXPERIMENT
  settings = {"cache": str(home / "cache"), "validation": 0.3, "widths": 2}
  if kind == "tags":
    rows = [sentence(i) for i in range(60)]
    path = command.text_file(home, "rows.jsonl", rows)
    sources = (TagFiles(paths=(str(path),)),)
    data = Tags(sources=sources, length=16, classes=NAMES, **settings)
  else:
    qas = [question(i) for i in range(60)]
    path = command.text_file(home, "flat.jsonl", map(json.dumps, qas))
    sources = (PassageFiles(paths=(str(path),)),)
    where = "first" if family == "encoder" else "last"
    data = Passages(
      sources=sources, length=32, overlap=2, none_at=where, **settings
    )
  outputs = 3 if kind == "tags" else 2
  model = dataclasses.replace(base.model, outputs=outputs, output_bias=True)
  if family == "encoder":
    model = dataclasses.replace(model, sees="all", token_types=2)
  if family == "lstm":
    model = RecurrentConfig(
      embed_dim=8, max_length=32, outputs=outputs, output_bias=True
    )
  return dataclasses.replace(
    base,
    model=model,
    data=data,
    objective=Tagging() if kind == "tags" else Spans(),
    samples=Samples(every=0),
    validation=Validation(every=2, batches=1),
  )


def run(verb, home, name, experiment, *more):
  said = command.call(
    verb, f"--workdir={home / name}", *more, experiment=experiment
  )
  assert said.code == 0, said.err
  return said


CASES = [("tags", "encoder"), ("spans", "encoder"), ("spans", "decoder")]
CASES += [("tags", "lstm"), ("spans", "lstm")]


@pytest.mark.parametrize("kind,family", CASES)
def test_it_trains_is_measured_and_says_what_it_told(kind, family, home):
  its, name = experiment(kind, home, family), f"{kind}_{family}"
  run("train", home, name, its)
  rows = sameness.content(home / name)["rows"]
  assert {r["split"] for r in rows} == {"train", "validation"}
  assert all(np.isfinite(r["loss"]) for r in rows)
  said = run("evaluate", home, name, its)
  found = json.loads((home / name / "evaluation.json").read_text())
  model, folder = found["results"]["model"], home / name / "predictions"
  if kind == "tags":
    lines = (folder / "data.conll").read_text().splitlines()
    told = [line.split() for line in lines if line]
    right = sum(true == tag for _, true, tag in told) / len(told)
    assert model["word_accuracy"] == pytest.approx(right)
    assert model["words"] == len(told)
    assert json.loads((home / name / "classes.json").read_text()) == list(NAMES)
    assert found["results"]["most_frequent_tag"]["f1"] == 1
    return
  answers = json.loads((folder / "data.json").read_text())
  asked = {q["id"]: q for q in map(question, range(60))}
  truths = {i: [a["text"] for a in asked[i]["answers"]] for i in answers}
  for key, value in squad.evaluate(answers, truths).items():
    assert model[key] == pytest.approx(value)
  over = json.loads((folder / "data.none.json").read_text())
  best = json.loads((folder / "data.best.json").read_text())
  for i, answer in answers.items():
    assert answer == ("" if over[i] > 0 else best[i][0]["text"])
    assert all(its["text"] in asked[i]["context"] for its in best[i])
  assert found["results"]["no_answer"]["no_answer_exact_match"] == 1
  assert "no answer" in said.out and "best F1" in said.out


def test_the_threshold_of_the_best_f1_gives_it(home):
  its = experiment("spans", home)
  run("train", home, "at", its)
  run("evaluate", home, "at", its)
  read = lambda: json.loads((home / "at" / "evaluation.json").read_text())
  model = read()["results"]["model"]
  at = f"--objective.threshold={model['best_f1_threshold']}"
  if "inf" not in at:
    run("evaluate", home, "at", its, at)
    assert read()["results"]["model"]["f1"] == pytest.approx(model["best_f1"])
  run("evaluate", home, "at", its, "--objective.threshold=-1e9")
  model = read()["results"]["model"]
  assert model["no_answer_exact_match"] == 1 and model["has_answer_f1"] == 0
  flags = ("--objective.threshold=1e9", "--objective.longest=1")
  run("evaluate", home, "at", its, *flags)
  told = json.loads((home / "at/predictions/data.json").read_text())
  assert all(len(t) == 1 for t in told.values())


@pytest.mark.parametrize(
  "kind,end", [("tags", "TokenClassification"), ("spans", "QuestionAnswering")]
)
def test_it_is_exported_as_what_it_tells(kind, end, home):
  its = dataclasses.replace(experiment(kind, home, "decoder"), steps=1)
  its = dataclasses.replace(its, validation=Validation(every=0))
  more = ["--data.question=5"] if kind == "spans" else []
  run("train", home, f"{kind}_out", its, *more)
  about = json.loads((home / f"{kind}_out/experiment.json").read_text())
  assert [note[:18] for note in about["notes"]] == [f"{m}:" for m in more]
  folder = home / f"{kind}_exported"
  run("export", home, f"{kind}_out", its, f"--to={folder}")
  config = json.loads((folder / "config.json").read_text())
  assert config["architectures"][0].endswith(f"For{end}")
  if kind == "tags":
    assert list(config["id2label"].values()) == list(NAMES)


@pytest.mark.optimised
@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_eight_devices_are_one_and_a_stopped_run_goes_on(kind, home):
  its = dataclasses.replace(experiment(kind, home), steps=4)
  eight = dataclasses.replace(its, mesh=MeshShape(data=8))
  one = dataclasses.replace(its, mesh=MeshShape(data=1))
  whole = run_of(home, f"{kind}_whole", eight)
  run_of(home, f"{kind}_stopped", eight, "--steps=2")
  found = run_of(home, f"{kind}_stopped", eight)
  arrays = {k: v for k, v in whole.items() if k.startswith("array ")}
  assert arrays and {k: found[k] for k in arrays} == arrays
  alone = run_of(home, f"{kind}_alone", one)
  for a, b in zip(whole["rows"], alone["rows"], strict=True):
    assert a.pop("split") == b.pop("split")
    assert a == pytest.approx(b, rel=1e-4)


def run_of(home, name, its, *more):
  run("train", home, name, its, *more)
  return sameness.content(home / name)


@pytest.mark.parametrize(
  "kind,change,says",
  [
    ("tags", ["--model.outputs=4"], "there are 3 classes (O, B-NAME, I-NAME)"),
    (
      "tags",
      ["--model.outputs=0", "--model.output_bias=false", "--data.classes="],
      "--model.outputs=0: as",
    ),
    ("spans", ["--model.outputs=1"], "--model.outputs=1: spans are told by 2"),
    ("spans", ["--data.none_at=last"], "with --model.sees=all no answer is"),
    (
      "spans",
      ["--model.sees=before", "--model.token_types=0"],
      "--data.none_at=first: with --model.se",
    ),
    ("spans", ["--data.overlap=40"], "--data.overlap=40: beside a question of"),
    ("tags", ["--samples.every=2"], "--samples.every=2: "),
    ("tags", ["--data.classes=O,B-NAME,X"], "has the tag"),
  ],
)
def test_what_does_not_fit_is_told(kind, change, says, home):
  its = experiment(kind, home)
  if "X" in change[0]:
    its = dataclasses.replace(
      its, data=dataclasses.replace(its.data, classes=("O", "X", "Y"))
    )
    change = []
  said = command.call(
    "train", f"--workdir={home / 'none'}", *change, experiment=its
  )
  assert said.code == 2 and says in said.error, said.err


def test_what_other_objectives_read_is_refused(home):
  its = experiment("tags", home)
  its = dataclasses.replace(its, objective=Spans())
  said = command.call("train", f"--workdir={home / 'none'}", experiment=its)
  assert "--data (Tags): Spans reads spans, not tags" in said.error


def test_windows_of_a_text_are_joined_by_the_best_score(monkeypatch):
  """By hand: the answer stands in the second window alone."""
  its = [marks_test.ASKED[1]]
  found = marks_test.told(marks_test.SMALL, its)
  windows, _ = found.windows("train")
  rows = marks_test.rows(found)
  assert len(rows) > 2
  said = np.zeros((len(rows), 24, 2))
  for r, row in enumerate(rows):
    if row["start_B"]:
      said[r, row["start_B"], 0] = said[r, row["end_B"], 1] = 2.0
      holds = r
  said[:, 0] = 1.0  # no answer, which scores 2 everywhere
  said[holds, 0] = 0.5  # and least where the answer is
  batch = {n: np.stack([row[n] for row in rows]) for n in ("mask_BT", "row_B")}
  marks = marking._answers(found, "train", [(said, batch)], Spans())
  assert marks.written[".json"] == {"2": "Anna"}
  assert marks.written[".best.json"]["2"][0] == {"text": "Anna", "score": 4.0}
  assert marks.measures["exact_match"] == 1
  assert windows.question_R.max() == 0
  # Of the first batches alone it is not answered: its windows are not all read.
  part = {n: x[:-1] for n, x in batch.items()}
  with pytest.raises(ValueError, match="no question to evaluate on"):
    marking._answers(found, "train", [(said[:-1], part)], Spans())
  two = marks_test.told(marks_test.SMALL, [*its, marks_test.ASKED[0]])
  told = marking._answers(two, "train", [(said, batch)], Spans())
  assert told.written[".json"] == {"2": "Anna"}
  assert told.measures["questions"] == 1
  # Mutant: the last window alone.
  last, places = found.windows("train")
  last = type(last)(*(x[-1:] for x in last)), places[-1:]
  monkeypatch.setattr(found, "windows", lambda split: last)
  alone = {"mask_BT": batch["mask_BT"][-1:], "row_B": batch["row_B"][:1]}
  marks = marking._answers(found, "train", [(said[-1:], alone)], Spans())
  assert marks.measures["exact_match"] == 0
