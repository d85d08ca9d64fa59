"""Rewards that fail lose nothing, and say in one line what is wrong."""

import copy
import dataclasses
import json
import shutil

import pytest

from benchmarks import sameness
from llm_jax import judging
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Validation
from llm_jax.judges.function import Function
from llm_jax.judges.reward import RewardModel
from llm_jax.judges.rules import Length
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.ranking import Ranking
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.tokenizers.sentencepiece import SentencePiece
from tests import command, drawing

FAILS = '''
import pathlib
HERE = pathlib.Path(__file__).parent
calls = []

def score(prompt, completion, reference):
  """Fails after as many calls as a file says, which may be taken away."""
  calls.append(completion)
  broken = HERE / "broken"
  if broken.exists() and len(calls) > int(broken.read_text()):
    {failure}
  return completion.count("e") / 7 + len(completion) / 9
'''
FAILURES = {
  "raise KeyError('gone')": "raised KeyError: 'gone'",
  "import time; time.sleep(30)": "took longer than --judge.timeout=0.5",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(experiment, folder of its run, which nothing disturbed)."""
  home = tmp_path_factory.mktemp("rewards")
  experiment = drawing.experiment(home, objective=PPO(critic="shared"))
  experiment = dataclasses.replace(
    experiment,
    checkpoints=dataclasses.replace(experiment.checkpoints, every=0),
    validation=Validation(every=0),
  )
  judged = with_reward(experiment, home / "good", "pass")
  command.train(judged, home / "whole")
  return experiment, home / "whole"


def with_reward(experiment, folder, failure, **changes):
  folder.mkdir(exist_ok=True)
  file = folder / "reward.py"
  file.write_text(FAILS.format(failure=failure))
  judge = Function(f"{file}:score", timeout=0.5, **changes)
  return dataclasses.replace(experiment, judge=judge)


def ended(experiment, folder, *flags):
  """The line of a run that ends because of its reward."""
  said = command.call(
    "train", f"--workdir={folder}", *flags, experiment=experiment
  )
  assert said.code == 2
  return said.error


@pytest.mark.parametrize("failure", FAILURES)
def test_a_run_whose_reward_fails_goes_on_as_if_it_had_not(
  failure, whole, tmp_path
):
  """No checkpoint was due; after the failure there is one of all steps done."""
  experiment, there = whole
  (tmp_path / "broken").write_text("20")  # in the second update
  judged = with_reward(experiment, tmp_path, failure)
  said = ended(judged, tmp_path / "run")
  assert FAILURES[failure] in said and "--judge.failed=0" in said
  assert (tmp_path / "run/checkpoints/00000004").exists()
  (tmp_path / "broken").unlink()
  found = command.train(judged, tmp_path / "run")
  assert sameness.differences(sameness.content(there), found) == []


def test_a_score_for_failures_may_be_given_later(whole, tmp_path):
  """It is the judge that it was; with other code it is not, unless told."""
  experiment, _ = whole
  (tmp_path / "broken").write_text("20")  # in the second update
  judged = with_reward(experiment, tmp_path, "raise KeyError")
  ended(judged, tmp_path / "run")
  copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
  (tmp_path / "broken").write_text("0")
  forgiving = with_reward(experiment, tmp_path, "raise KeyError", failed=-2.0)
  rows = command.train(forgiving, tmp_path / "run")["rows"]
  steps = [r for r in rows if r["split"] == "train"]
  assert len(steps) == 8 and steps[0]["judged"] > 0 > steps[-1]["judged"]
  mended = with_reward(experiment, tmp_path, "return 0.0")
  said = ended(mended, copy)
  assert "not the one that this run began with (code: " in said
  said = command.call(
    "train", f"--workdir={copy}", "--judge_may_change", experiment=mended
  )
  assert said.code == 0
  assert "--judge: not the one that this run began with (code: " in said.err


def test_a_function_is_named_by_flag(whole, tmp_path):
  """In the place of any judge; and what trained with it goes on with it."""
  experiment, _ = whole
  ruled = dataclasses.replace(experiment, judge=Length(most=3), steps=4)
  with_reward(experiment, tmp_path, "pass")
  flag = f"--judge={tmp_path}/reward.py:score"
  folder = f"--workdir={tmp_path / 'run'}"
  said = command.call("train", folder, flag, experiment=ruled)
  assert said.code == 0, said.err
  rows = sameness.content(tmp_path / "run")["rows"]
  assert rows[0]["judged"] > 0  # the rule gives 0 at most
  said = command.call("train", folder, "--steps=5", experiment=ruled)
  assert "--judge: not the one that this run began with" in said.error
  said = command.call("train", folder, "--steps=5", flag, experiment=ruled)
  assert said.code == 0, said.err
  nobody = ended(ruled, tmp_path / "other", "--judge=mine.py:score")
  assert "--judge.path=mine.py:score: there is no file mine.py" in nobody
  said = ended(ruled, tmp_path / "other", flag, "--judge.most=4")
  assert "unknown flag --judge.most" in said
  assert not (tmp_path / "other").exists()
  # Its own settings are flags then.
  with_reward(experiment, tmp_path, "raise KeyError")
  (tmp_path / "broken").write_text("0")
  folder = f"--workdir={tmp_path / 'failing'}"
  said = command.call(
    "train", folder, flag, "--judge.failed=-3", experiment=ruled
  )
  assert said.code == 0, said.err
  rows = sameness.content(tmp_path / "failing")["rows"]
  assert rows[0]["judged"] == -3


def reward_model(home, name, room=32, **changes):
  """A run of two steps that reads `room` tokens, in a folder of that name."""
  rows = [
    {"prompt": f"say {w} {v}", "chosen": f"{v} {w}", "rejected": w}
    for w in command.WORDS
    for v in command.WORDS
  ]
  path = command.text_file(home, f"{name}.jsonl", map(json.dumps, rows))
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(
      command.EXPERIMENT.model, outputs=1, max_length=room
    ),
    objective=Ranking(),
    data=Preferences(
      sources=(PreferenceFiles(paths=(str(path),)),),
      length=32,
      cache=str(home / "cache"),
    ),
    validation=Validation(every=0),
    samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
    batch_size=16,
    **changes,
  )
  command.train(experiment, home / name)
  return str(home / name)


def test_a_reward_model_with_another_tokenizer_reads_the_text(
  whole, tmp_path, monkeypatch
):
  """In its own tokens, and not those of the policy."""
  experiment, _ = whole
  pieces = SentencePiece(vocab_size=300)
  run = reward_model(tmp_path, "pieces", 128, tokenizer=pieces)
  seen = []
  of = judging._Model._whole

  def whole_(self, messages, completion):
    prompt_ids, ids = of(self, messages, completion)
    read = self._tokenizer.decode([*prompt_ids, *ids])
    in_bytes = copy.copy(self)
    in_bytes._tokenizer = ByteTokenizer()
    saved = len(of(in_bytes, messages, completion)[0]) - len(prompt_ids)
    seen.append((messages[-1][1], completion, read, saved))
    return prompt_ids, ids

  monkeypatch.setattr(judging._Model, "_whole", whole_)
  judged = dataclasses.replace(experiment, judge=RewardModel(run=run), steps=1)
  row = command.train(judged, tmp_path / "run")["rows"][0]
  assert len(seen) == judged.rollouts.batch and abs(row["judged"]) > 1e-4
  for prompt, completion, read, saved in seen:
    assert prompt in read and completion in read
    assert saved > 0  # in bytes, as the policy reads it, it is longer


def test_a_reward_model_without_room_is_told_before_a_step(whole, tmp_path):
  experiment, _ = whole
  run = reward_model(tmp_path, "short")
  about = tmp_path / "short/experiment.json"
  about.write_text(
    about.read_text().replace('"max_length": 32', '"max_length": 30')
  )
  judged = dataclasses.replace(experiment, judge=RewardModel(run=run))
  said = ended(judged, tmp_path / "run", "--rollouts.max_prompt=23")
  assert f"--judge.run={run}: reads 30 tokens, which is less than" in said
  assert not (tmp_path / "run/metrics.jsonl").exists()
