"""Preferences by the command line: trained on, stopped, and measured."""

import dataclasses
import json
import shutil
from unittest import mock

import pytest

from benchmarks import sameness
from llm_jax.data import batches
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Evaluation, Log, Samples, Validation
from llm_jax.judges.rules import Length
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.ranking import Ranking
from llm_jax.objectives.unreferenced import SimPO
from llm_jax.peft.lora import LoRA
from llm_jax.sharding.mesh import MeshShape
from tests import command

ROWS = [
  {"prompt": f"{i}?", "chosen": f"{i}!" * (1 + i % 2), "rejected": f"{i}-"}
  for i in range(60)
]
EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  objective=DPO(beta=0.5),
  data=Preferences(sources=(PreferenceFiles(),), length=24, validation=0.3),
  optimizer=dataclasses.replace(command.EXPERIMENT.optimizer, peak=3e-2),
  validation=Validation(every=0, questions=6),
  samples=Samples(every=0, max_new_tokens=4),
  log=Log(every=1, tensorboard=False),
  steps=4,
  mesh=MeshShape(data=1),  # less to compile than eight
)
REWARD_MODEL = {
  "objective": Ranking(),
  "model": dataclasses.replace(EXPERIMENT.model, outputs=1),
}
EXPERIMENTS = {
  "dpo": EXPERIMENT,
  "simpo": dataclasses.replace(EXPERIMENT, objective=SimPO()),
  "kto": dataclasses.replace(
    EXPERIMENT,
    objective=KTO(),
    data=dataclasses.replace(EXPERIMENT.data, rows="labels"),
  ),
  "dpo_lora_packed": dataclasses.replace(
    EXPERIMENT,
    peft=LoRA(rank=2, targets=("mlp/up",)),
    data=dataclasses.replace(EXPERIMENT.data, packing="best_fit"),
  ),
  "rm": dataclasses.replace(EXPERIMENT, **REWARD_MODEL),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """A folder with a base and with rows."""
  folder = tmp_path_factory.mktemp("comparing")
  command.text_file(folder, "rows.jsonl", map(json.dumps, ROWS))
  base = command.trained(tmp_path_factory) / "run"
  return folder, f"--init_from={base}"


def call(home, verb, name, *flags, to=None, path=None):
  folder, base = home
  _, *data = command.train_flags(folder, path or folder / "rows.jsonl")
  run = folder / (to or name)
  return command.call(
    verb,
    f"--workdir={run}",
    *data,
    base,
    *flags,
    experiment=EXPERIMENTS[name],
    name=name,
  )


def train(home, name, *flags, **where):
  said = call(home, "train", name, *flags, **where)
  assert said.code == 0, said.err
  return home[0] / where.get("to", name)


def trained(home, name):
  """The run of a name, made once."""
  folder = home[0] / name
  return folder if folder.exists() else train(home, name)


def evaluate(home, name, *flags, **where):
  said = call(home, "evaluate", name, *flags, **where)
  assert said.code == 0, said.err
  path = home[0] / where.get("to", name) / "evaluation.json"
  return json.loads(path.read_text()), said


@pytest.mark.parametrize("name", ["dpo", "dpo_lora_packed", "kto", "rm"])
def test_a_run_goes_on_as_if_it_had_never_stopped(home, name):
  once = sameness.content(trained(home, name))
  assert len([r for r in once["rows"] if r["split"] == "train"]) == 4
  stopped = train(home, name, "--steps=2", to=f"{name}_twice")
  wrong = shutil.copytree(stopped, home[0] / f"{name}_wrong")
  assert sameness.content(train(home, name, to=stopped.name)) == once
  if name != "kto":
    return
  # The mutant: a source that begins again.
  with mock.patch.object(batches.Offline, "set_state", lambda *_: None):
    train(home, name, to=wrong.name)
  assert sameness.content(wrong) != once


@pytest.mark.parametrize("name", ["dpo", "simpo"])
def test_a_policy_is_measured_on_pairs_and_against_its_reference(home, name):
  folder = trained(home, name)
  found, said = evaluate(home, name)
  model, others = found["results"]["model"], found["results"]
  assert list(others) == ["model", "majority", "longer_is_better"]
  # Two of three chosen ones are as long as the rejected one.
  assert others["longer_is_better"]["accuracy"] > 0.5
  for measure in ("accuracy", "margin", "ece", "loss", "chosen_longer"):
    assert measure in model
  assert 0 <= model["accuracy"] <= 1 and model["pairs"] > 10
  assert model["completions"] == 6 and model["kl"] != 0
  assert "calibration" in found and "reward" not in found
  assert "KL from the reference" in said.out
  page = (folder / "report.html").read_text()
  assert "KL from the reference" in page and "Accuracy by confidence" in page
  assert "nats/token" not in page


def test_before_its_first_step_a_policy_is_its_reference(home):
  train(home, "dpo", "--steps=0", to="dpo_0")
  found, _ = evaluate(home, "dpo", to="dpo_0")
  model = found["results"]["model"]
  assert model["kl"] == model["kl_error"] == model["margin"] == 0
  assert model["accuracy"] == 0.5


def test_a_reward_model_is_held_against_a_policy(home):
  trained(home, "rm")
  other = trained(home, "dpo")
  found, said = evaluate(home, "rm", f"--against={other}")
  model = found["results"]["model"]
  # As it was measured when it was trained.
  assert found["reward"] == json.loads((home[0] / "rm/reward.json").read_text())
  assert "kl" not in model and "deviation 1" in said.out
  rows = found["against"]["comparison"]
  # Losses of two objectives are of two units.
  assert [r["measure"] for r in rows] == ["accuracy"]
  assert rows[0]["this"] == model["accuracy"]
  pairs = found["against"]["datasets"]["data"]
  assert rows[0]["other"] == pairs["accuracy"] and pairs["kl"]


def test_answers_are_drawn_and_judged(home):
  policy, judge = trained(home, "dpo"), trained(home, "rm")
  alone, _ = evaluate(home, "dpo")
  EXPERIMENTS["judged"] = dataclasses.replace(
    EXPERIMENT, judges=(Length(most=1),)
  )
  flags = ["--validation.best_of=3", f"--judge={judge}"]
  found, said = evaluate(home, "judged", *flags, to="dpo")
  model, told = found["results"]["model"], found["said"]["data"]
  curve, answers = told["best_of"]["curve"], told["answers"]
  assert told["best_of"]["judges"] == {
    "score": f"RewardModel ({judge})",
    "length_score": "Length",
  }
  # What is drawn first is the same, however much is drawn.
  for name in ("kl", "kl_error", "completions"):
    assert model[name] == alone["results"]["model"][name]
  texts = [a["text"] for a in answers]
  assert texts == [a["text"] for a in alone["said"]["data"]["answers"]]
  assert "score" not in alone["said"]["data"]["answers"][0]
  assert len(texts) == 6 and len(set(texts)) > 1
  for a in answers:
    assert a["best"]["of"] == 3 and a["best"]["score"] >= a["score"]
    assert "best" not in alone["said"]["data"]["answers"][0]
    assert a["length_score"] == -abs(len(a["text"].strip()) - 1)
  assert [row["n"] for row in curve] == [1, 2, 3]
  scores = [row["score"] for row in curve]
  assert scores == sorted(scores) and scores[0] < scores[-1]
  assert model["score"] == scores[0]
  assert model["length_score"] == curve[0]["length_score"]
  assert "data: best of" in said.out
  page = (policy / "report.html").read_text()
  assert "Best of n by Length" in page and "Answers" in page


def test_runs_of_every_kind_are_asked_the_same_and_held_against_one(home):
  folder, base = home
  base = base.partition("=")[2]
  liked = shutil.copytree(trained(home, "dpo"), folder / "liked")
  sources = (PreferenceFiles(paths=(str(folder / "rows.jsonl"),)),)
  data = dataclasses.replace(
    EXPERIMENT.data, sources=sources, cache=str(folder / "cache")
  )
  evaluations = (Evaluation("asked", data, questions=6),)
  EXPERIMENTS["asking"] = dataclasses.replace(
    EXPERIMENT, evaluations=evaluations
  )
  flags = ["--validation.questions=0", "--novalidation.baselines"]

  def asked(where, *more):
    said = command.call(
      "evaluate",
      f"--workdir={where}",
      *flags,
      *more,
      experiment=EXPERIMENTS["asking"],
    )
    assert said.code == 0, said.err
    found = json.loads((where / "evaluation.json").read_text())
    return found["datasets"]["asked"], found["said"]["asked"]

  began = shutil.copytree(base, folder / "began")
  there, told = asked(began, f"--kl_from={base}", "--samples.max_new_tokens=4")
  assert there["kl"] == 0 and there["completions"] == 6  # from itself
  here, others = asked(liked)
  same, _ = asked(liked, f"--kl_from={base}")
  assert same["kl"] == here["kl"] != 0  # what it began with
  # Mutant: the run that is named is not asked.
  own, _ = asked(liked, f"--kl_from={liked}")
  assert own["kl"] == 0
  assert told["asked"] == others["asked"]
  assert told["asked"]["questions"] == 6
  assert {a["reference"] for a in told["answers"]} <= {
    r["chosen"] for r in ROWS
  }
  sharp, others = asked(liked, "--validation.temperature=0.2")
  assert sharp["kl"] != here["kl"] and others["asked"] != told["asked"]
  assert others["answers"] != told["answers"]


def test_runs_are_laid_beside_each_other(home):
  folders = [trained(home, name) for name in ("dpo", "simpo")]
  for folder in folders:
    if not (folder / "evaluation.json").exists():
      evaluate(home, folder.name)
  runs = f"--runs={','.join(map(str, folders))}"
  into = home[0] / "beside"
  said = command.call("compare", runs, f"--into={into}", experiment=EXPERIMENT)
  assert said.code == 0, said.err
  found = json.loads((into / "comparison.json").read_text())["runs"]
  assert {r["settings"]["objective"] for r in found} == {"DPO", "SimPO"}
  page = (into / "index.html").read_text()
  assert page.count("<svg") >= 1 and "Accuracy against KL" in page
  assert page.count("report.html") == 2 and "accuracy" in said.out
  for flags, line in (
    ([runs, "--steps=3"], "--steps: not read by compare, which runs nothing"),
    ([f"--runs={into}"], f"--runs={into}: expected two run folders or more"),
  ):
    said = command.call("compare", *flags, experiment=EXPERIMENT)
    assert (said.code, said.error) == (2, f"error: {line}")


def test_what_cannot_be_judged_is_told(home):
  trained(home, "rm")

  def told(verb, name, *flags):
    said = call(home, verb, name, *flags)
    assert said.code == 2
    return said.error

  assert told("evaluate", "rm", "--validation.best_of=2") == (
    "error: --validation.best_of=2: a run trained with Ranking gives no answers"
  )
  trained(home, "dpo")
  assert "--validation.best_of=2: there are no questions" in told(
    "evaluate", "dpo", "--validation.best_of=2", "--validation.questions=0"
  )
  assert "--judge: `evaluate` has answers judged with" in told(
    "evaluate", "dpo", "--judge=x"
  )
  assert "--judge.most: `evaluate` has answers judged" in told(
    "evaluate", "dpo", "--judge.most=3"
  )
  both = ["--judge=x", "--judge.most=3", "--validation.best_of=2"]
  assert "--judge.most: is not read with --judge=x" in told(
    "evaluate", "dpo", *both
  )
  assert "--judge.run=x: holds no" in told("evaluate", "dpo", *both[::2])
  assert told("train", "dpo", "--judge=x") == (
    "error: --judge: read by evaluate, label only, not by train"
  )


def test_likes_are_measured_as_pairs_where_they_are_some(home, tmp_path):
  trained(home, "kto")
  found, _ = evaluate(home, "kto", "--validation.questions=0")
  model = found["results"]["model"]
  assert model["pairs"] > 10 and "calibration" in found
  assert "baseline" in model  # of the likes themselves
  rows = [
    {"prompt": f"{i}?", "completion": f"{i}!", "label": bool(i % 2)}
    for i in range(60)
  ]
  path = command.text_file(tmp_path, "likes.jsonl", map(json.dumps, rows))
  flags = ["--validation.questions=0"]
  found, said = evaluate(home, "kto", *flags, path=path)
  assert "no pairs are compared" in said.err
  assert list(found["results"]) == ["model"] and "calibration" not in found
