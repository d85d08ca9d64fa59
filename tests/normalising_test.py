"""A reward model's gain and bias: measured when it is trained, and used."""

import dataclasses
import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from llm_jax import claim, judging, normalising
from llm_jax.contracts import Question
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Log, Samples, Validation
from llm_jax.judges.reward import RewardModel
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.ranking import Ranking
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from tests import command

ROWS = [
  {
    "prompt": f"{i}?",
    "chosen": "abcdefgh"[i % 8] * (1 + i % 5),
    "rejected": f"{i}-{i}",
  }
  for i in range(60)
]
BASE = dataclasses.replace(
  command.EXPERIMENT,
  data=Preferences(sources=(PreferenceFiles(),), length=24, validation=0.3),
  optimizer=dataclasses.replace(command.EXPERIMENT.optimizer, peak=3e-2),
  validation=Validation(every=0),
  samples=Samples(every=0),
  log=Log(every=1, tensorboard=False),
  batch_size=16,
  mesh=MeshShape(data=1),  # less to compile than eight
  average=0.5,  # which is what a judge reads
)
EXPERIMENTS = {
  "ranking": dataclasses.replace(
    BASE,
    objective=Ranking(),
    model=dataclasses.replace(BASE.model, outputs=1),
  ),
  "classes": dataclasses.replace(
    BASE,
    objective=Classification(reward="log_odds"),
    model=dataclasses.replace(BASE.model, outputs=2),
    data=dataclasses.replace(BASE.data, rows="classes"),
  ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("normalising")
  command.text_file(folder, "rows.jsonl", map(json.dumps, ROWS))
  for name in EXPERIMENTS:
    assert train(folder, name).code == 0
  return folder


def train(folder, name, *flags, to=None):
  _, *data = command.train_flags(folder, folder / "rows.jsonl")
  return command.call(
    "train",
    f"--workdir={folder / (to or name)}",
    *data,
    *flags,
    experiment=EXPERIMENTS[name],
    name=name,
  )


def judged(folder, asked, **how):
  """Scores of (prompt, completion), by the judge of a run."""
  judge = RewardModel(run=str(folder), **how)
  settings = dataclasses.replace(BASE, judge=judge)
  mesh = mesh_lib.make(settings.mesh)
  with jax.set_mesh(mesh):
    made, about = judging.make(settings, folder, None, mesh)
    questions = [Question((("user", p),), (c,)) for p, c in asked]
    return np.array([v.scores[0] for v in made(questions)]), about


def held_out(folder, *sides):
  """(prompt, completion) of the held-out rows."""
  settings = EXPERIMENTS["ranking"].data
  where = dataclasses.replace(
    settings,
    sources=(PreferenceFiles(paths=(str(folder / "rows.jsonl"),)),),
    cache=str(folder / "cache"),
  )
  corpus = where.prepare(lambda items, **_: iter(items))
  prompts = {text.split("\n")[0] for text in corpus.texts("validation")}
  rows = [r for r in ROWS if r["prompt"] in prompts]
  assert 10 < len(rows) < 30
  return [(r["prompt"], r[side]) for r in rows for side in sides]


@pytest.mark.parametrize(
  "name,references,others",
  [
    ("ranking", ("chosen",), ("chosen", "rejected")),
    ("classes", ("chosen", "rejected"), ("chosen",)),
  ],
)
def test_the_judge_says_mean_0_and_deviation_1_of_references(
  home, name, references, others
):
  asked = held_out(home, *references)
  found, about = judged(home / name, asked)
  assert found.mean() == pytest.approx(0, abs=1e-5)
  assert found.std() == pytest.approx(1, abs=1e-5)
  told = json.loads((home / name / "reward.json").read_text())
  assert told["completions"] == len(asked) and told["split"] == "validation"
  assert about["gain"] == told["gain"] and about["bias"] == told["bias"]
  # Mutant: measured on completions that are no references.
  wrong, _ = judged(home / name, held_out(home, *others))
  assert abs(wrong.mean()) > 1e-2


def test_a_classifier_is_measured_by_class_and_its_rewards_on_pairs(home):
  folder = home / "classes"

  def evaluate(*flags):
    said = command.call(
      "evaluate",
      f"--workdir={folder}",
      *flags,
      experiment=EXPERIMENTS["classes"],
      name="classes",
    )
    assert said.code == 0, said.err
    return said, json.loads((folder / "evaluation.json").read_text())

  _, packed = evaluate("--data.packing=best_fit", "--data.length=32")
  # How many references are wanted says nothing of what was measured.
  said, found = evaluate("--rewards.references=9")
  assert packed["classes"] == found["classes"]
  for name, of_data in found["datasets"].items():
    assert packed["datasets"][name] == pytest.approx(of_data, rel=1e-4)
  model, each = found["results"]["model"], found["classes"]
  assert [r["class"] for r in each] == ["disliked", "liked"]
  assert model["examples"] == sum(r["examples"] for r in each)
  right = sum(r["examples"] * r["recall"] for r in each)
  assert model["accuracy"] == pytest.approx(right / model["examples"])
  assert found["results"]["majority"]["accuracy"] == 0.5
  assert found["datasets"]["data: pairs"]["pairs"] == each[0]["examples"]
  assert 0.5 <= found["calibration"][0]["confidence"] <= 1
  assert found["reward"] == json.loads((folder / "reward.json").read_text())
  for text in (said.out, (folder / "report.html").read_text()):
    for word in ("precision", "disliked", "macro F1", "reference completions"):
      assert word in text
  assert "of examples," in (folder / "report.html").read_text()


def test_raw_rewards_are_in_the_same_order(home):
  asked = held_out(home, "chosen", "rejected")
  found, about = judged(home / "ranking", asked)
  raw, without = judged(home / "ranking", asked, normalised=False)
  assert (without["gain"], without["bias"]) == (1, 0)
  np.testing.assert_allclose(found, about["gain"] * raw + about["bias"])
  assert about["gain"] > 0 and abs(found - raw).max() > 0.1
  np.testing.assert_array_equal(np.argsort(found), np.argsort(raw))


def test_a_run_that_ended_while_measuring_does_so_when_it_goes_on(home):
  folder = shutil.copytree(home / "ranking", home / "killed")
  want = (folder / "reward.json").read_bytes()
  at = (folder / "reward.json").stat().st_mtime_ns
  assert train(home, "ranking", to="killed").code == 0
  assert (folder / "reward.json").stat().st_mtime_ns == at  # not done again
  (folder / "reward.json").unlink()
  with pytest.raises(ValueError, match="its rewards were not measured after"):
    normalising.of(claim.settings(folder), folder, 2)
  with mock.patch.object(normalising, "_rewards", side_effect=SystemExit(143)):
    with pytest.raises(SystemExit):
      train(home, "ranking", to="killed")
  assert not (folder / "reward.json").exists()
  assert train(home, "ranking", to="killed").code == 0
  assert (folder / "reward.json").read_bytes() == want


def test_what_was_measured_of_another_checkpoint_is_not_used(home):
  folder = shutil.copytree(home / "ranking", home / "longer")
  before = json.loads((folder / "reward.json").read_text())
  with mock.patch.object(normalising, "measure"):
    assert train(home, "ranking", "--steps=3", to="longer").code == 0
  with pytest.raises(ValueError) as e:
    judged(folder, [("0?", "a")])
  assert str(e.value) == (
    f"--judge.run={folder}: its rewards were not measured after step 3, for"
    " their gain and bias; its `train`, called again, does so after its last"
    " step; --judge.normalised=false takes them as they are"
  )
  assert train(home, "ranking", "--steps=3", to="longer").code == 0
  after = json.loads((folder / "reward.json").read_text())
  assert after["checkpoint_step"] == 3 and after["gain"] != before["gain"]


def test_a_file_that_tells_no_gain_and_bias_is_made_anew(home):
  folder = shutil.copytree(home / "ranking", home / "edited")
  its, path = claim.settings(folder), folder / "reward.json"
  whole = path.read_text()
  told = json.loads(whole)
  bad = [whole[:30], "", "[1]", '"x"']
  for name, value in (("gain", "a"), ("gain", None), ("gain", 0), ("bias", [])):
    bad.append(json.dumps(told | {name: value}))
  bad.append(json.dumps(told | {"bias": float("nan")}))
  bad.append(json.dumps({k: v for k, v in told.items() if k != "gain"}))
  for text in bad:
    path.write_text(text)
    with pytest.raises(ValueError, match="its rewards were not measured after"):
      normalising.of(its, folder, 2)
  assert train(home, "ranking", to="edited").code == 0
  assert path.read_text() == whole
  assert normalising.of(its, folder, 2) == (told["gain"], told["bias"])


def test_settings_change_what_is_measured(home):
  shutil.copytree(home / "ranking", home / "other")
  flags = ("--rewards.normalise=bias", "--rewards.references=5")
  said = train(home, "ranking", *flags, to="other")
  assert "rewards of 5 reference completions (validation)" in said.err
  told = json.loads((home / "other/reward.json").read_text())
  assert told["completions"] == 5 and told["gain"] == 1
  assert told["bias"] == -told["mean"]
  before = (home / "other/reward.json").read_bytes()
  train(home, "ranking", "--rewards.normalise=none", to="other")
  assert (home / "other/reward.json").read_bytes() == before
  line = normalising.of(claim.settings(home / "other"), home / "other", 2)
  assert line == (1, 0)
