"""Runs that tell something of texts: trained, resumed, measured, refused."""

import dataclasses
import json

import pytest

from benchmarks import sameness
from llm_jax.data.example_sources import ExampleFiles
from llm_jax.data.examples import Examples
from llm_jax.experiment import Evaluation, Samples, Validation
from llm_jax.judges.reward import RewardModel
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.multi_label import MultiLabel
from llm_jax.objectives.regression import Regression
from llm_jax.sharding.mesh import MeshShape
from tests import command, drawing
from tests.interop import tiny

MOODS = ("glad", "sad")
ENCODER = dataclasses.replace(
  command.EXPERIMENT.model, sees="all", token_types=2, outputs=2, dropout=0.1
)
MODELS = {
  "encoder": ENCODER,
  "decoder": dataclasses.replace(ENCODER, sees="before", token_types=0),
  "lstm": RecurrentConfig(embed_dim=8, max_length=32, outputs=2, dropout=0.1),
}
TOLD = {  # objective, outputs, what is told of text i
  "classes": (Classification(), 2, lambda i: MOODS[i % 2]),
  "class_sets": (MultiLabel(), 3, lambda i: ["a", "b", "c"][: i % 4]),
  "numbers": (Regression(), 1, lambda i: i / 60),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tasks")
  for kind, (_, _, of) in TOLD.items():
    rows = [
      {"text": f"text {i}", "text_pair": f"{i}", "label": of(i)}
      for i in range(60)
    ]
    command.text_file(folder, f"{kind}.jsonl", map(json.dumps, rows))
  return folder


def experiment(home, model="encoder", rows="classes", **changes):
  objective, outputs, _ = TOLD[rows]
  its = dataclasses.replace(MODELS[model], outputs=outputs)
  data = Examples(
    sources=(ExampleFiles(paths=(str(home / f"{rows}.jsonl"),)),),
    rows=rows,
    length=16,
    widths=1,
    read_at="first" if model == "encoder" else "last",
    validation=0.3,
    cache=str(home / "cache"),
  )
  found = dataclasses.replace(
    command.EXPERIMENT,
    model=its,
    objective=objective,
    data=data,
    mesh=MeshShape(data=2, fsdp=4),
    steps=4,
    validation=Validation(every=4, batches=0, baselines=False),
    samples=Samples(every=0),
  )
  return dataclasses.replace(found, **changes)


def train(its, folder, *more):
  said = command.call("train", f"--workdir={folder}", *more, experiment=its)
  assert said.code == 0, said.err
  return sameness.content(folder)


def ended(home, rows):
  """A run and its experiment; made by whichever test asks first."""
  its, folder = experiment(home, rows=rows), home / f"told_{rows}"
  if not folder.exists():
    train(its, folder)
  return its, folder


def measured(its, folder, *more):
  """What `evaluate` says of a run's own data."""
  said = command.call("evaluate", f"--workdir={folder}", *more, experiment=its)
  assert said.code == 0, said.err
  return json.loads((folder / "evaluation.json").read_text())


def losses(content):
  return [r["loss"] for r in content["rows"] if r["split"] == "train"]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_the_same_on_one_device_and_goes_on_where_it_stopped(
  home, model
):
  its = experiment(home, model)
  whole = train(its, home / model)
  train(its, home / f"{model}_stopped", "--steps=2")
  found = train(its, home / f"{model}_stopped")
  arrays = {k: v for k, v in whole.items() if k.startswith("array ")}
  assert arrays and {k: found[k] for k in arrays} == arrays
  alone = dataclasses.replace(its, mesh=MeshShape(data=1))
  one = train(alone, home / f"{model}_one", "--validation.every=0")
  assert losses(one) == pytest.approx(losses(whole), rel=1e-5)
  assert len(set(losses(whole))) == 4


@pytest.mark.parametrize("rows", TOLD)
def test_it_is_measured(home, rows):
  its, folder = ended(home, rows)
  other = dataclasses.replace(its.data, validation=0.5)
  its = dataclasses.replace(its, evaluations=(Evaluation("other", other),))
  said = command.call("evaluate", f"--workdir={folder}", experiment=its)
  assert said.code == 0, said.err
  found = json.loads((folder / "evaluation.json").read_text())
  model = found["datasets"]["data"]
  columns = {
    "classes": {"accuracy", "macro_f1", "matthews", "ece"},
    "class_sets": {"accuracy", "macro_f1", "micro_f1"},
    "numbers": {"mse", "pearson", "spearman"},
  }[rows]
  assert columns | {"loss", "examples"} == set(model)
  assert found["datasets"]["other"]["examples"] > model["examples"] > 5
  baseline = "mean" if rows == "numbers" else "majority"
  assert set(found["results"]) == {"model", baseline}
  assert baseline in said.out
  last = [r for r in sameness.content(folder)["rows"] if "valid" in r["split"]]
  assert last[-1]["loss"] == pytest.approx(model["loss"], rel=1e-5)
  if rows == "numbers":
    assert "classes" not in found and "squared error" in said.out
    assert model["mse"] == pytest.approx(model["loss"], rel=1e-5)
  else:
    names = json.loads((folder / "classes.json").read_text())
    assert [c["class"] for c in found["classes"]] == names
    assert last[-1]["accuracy"] == pytest.approx(model["accuracy"])
  said = command.call(
    "generate", f"--workdir={folder}", "--prompt=a", experiment=its
  )
  assert said.code == 2 and "goes on with no text" in said.error


def test_what_is_told_of_texts_is_no_reward_of_completions(home):
  _, folder = ended(home, "classes")
  assert not (folder / "reward.json").exists()
  its = drawing.experiment(home, steps=1)
  its = dataclasses.replace(its, judge=RewardModel(run=str(folder)))
  said = command.call("train", f"--workdir={home / 'ppo'}", experiment=its)
  assert said.code == 2 and "trained on texts alone (Examples)" in said.error


@pytest.mark.parametrize(
  "changes,says",
  [
    (
      ["--model.outputs=3"],
      "--model.outputs=3: there are 2 classes (glad, sad), as --data.classes",
    ),
    (
      ["--data.classes=glad,sad,angry"],
      "--model.outputs=2: there are 3 classes (glad, sad, angry), as --data.cl",
    ),
    (["--model.outputs=0"], "--model.outputs=0: as many as there are classes"),
    (
      ["--data.classes=sad,angry"],
      "has the class 'glad', and --data.classes has sad, angry; --data.classes",
    ),
    (
      ["--data.read_at=last"],
      "--data.read_at=last: an encoder (--model.sees=all) tells of a text at",
    ),
    (
      ["--model.sees=before", "--model.token_types=0"],
      "--data.read_at=first: what sees no later token (--model.sees=before)",
    ),
    (["--data.sources.0.label=mood"], "no column --data.sources.0.label=mood;"),
    (
      ["--data.rows=numbers"],
      "--data.rows=numbers: Classification reads class",
    ),
    (["--data.length=8"], "--data.length=8: "),
    (["--samples.every=2"], "--samples.every=2: "),
    (["--data.validation=0"], "the validation split is empty: raise --data.va"),
    (["--objective.weights=1"], "--objective.weights=1.0: there are 2 classes"),
    (["--objective.positive=2"], "--objective.positive=2: there are 2 classes"),
  ],
)
def test_what_cannot_be_is_told_in_a_line(home, changes, says):
  its = experiment(home)
  said = command.call(
    "train", f"--workdir={home / 'refused'}", *changes, experiment=its
  )
  assert said.code == 2 and says in said.error, said.err
  assert not (home / "refused").exists()


def test_a_head_of_something_else_is_refused(home, tmp_path):
  found = tiny.golden("bert_span", tiny.HEADS)
  folder = tiny.write(tmp_path / "span", found["config"], found["tensors"])
  said = command.call(
    "train",
    f"--init_from=hf:{folder}",
    f"--workdir={tmp_path / 'run'}",
    experiment=experiment(home),
  )
  assert said.code == 2
  assert "its head says numbers of a span, and" in said.error
  assert not (tmp_path / "run").exists()


def test_data_that_a_run_does_not_tell_are_refused(home):
  its, folder = ended(home, "classes")
  numbers = experiment(home, rows="numbers").data
  named = dataclasses.replace(its.data, classes=("sad", "glad"))
  for data, says in (
    (
      numbers,
      "other: has texts with --data.rows=numbers, and a run trained wi",
    ),
    (named, "other: has the classes sad, glad, and the run tells glad, sad ap"),
  ):
    other = dataclasses.replace(its, evaluations=(Evaluation("other", data),))
    said = command.call("evaluate", f"--workdir={folder}", experiment=other)
    assert said.code == 2 and says in said.error


@pytest.mark.parametrize("rows", TOLD)
def test_it_is_planned(home, rows):
  said = command.call("plan", experiment=experiment(home, rows=rows))
  assert said.code == 0 and "parameters" in said.out, said.err


def test_a_run_is_measured_as_it_is_exported_and_keeps_its_classes(home):
  its, folder = experiment(home, "decoder"), home / "decoder_out"
  plain = dataclasses.replace(its.model, output_bias=False)
  its = dataclasses.replace(its, model=plain, steps=2)
  train(its, folder)
  said = command.call(
    *("export", f"--workdir={folder}", "--format=hf"),
    f"--to={home / 'exported'}",
    experiment=its,
  )
  assert said.code == 0, said.err
  config = json.loads((home / "exported" / "config.json").read_text())
  assert config["id2label"] == {"0": "glad", "1": "sad"}
  begin = f"--init_from=hf:{home / 'exported'}"
  want = measured(its, folder)["results"]["model"]
  got = measured(its, home / "again", begin)["results"]["model"]
  assert got["loss"] == pytest.approx(want["loss"], rel=1e-5)
  assert got["accuracy"] == want["accuracy"]
  # Mutant: the classes in another order.
  turned = "--data.classes=sad,glad"
  for given in (begin, f"--init_from={folder}"):
    said = command.call(
      *("train", f"--workdir={home / 'turned'}", given, turned), experiment=its
    )
    assert (
      said.code == 2
      and (
        "its head tells glad, sad apart, and the data have sad, glad;"
        " --data.classes=glad,sad has its order"
      )
      in said.error
    )
