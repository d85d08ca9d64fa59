"""A run folder holds one experiment and one process, or what it held."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil

import jax
import pytest

from llm_jax import claim, config, host
from tests import command
from tests.command import refused


def a_run(folder, experiment=command.EXPERIMENT):
  """A run folder as it is before the first checkpoint."""
  run = folder / "run"
  run.mkdir()
  experiment = dataclasses.replace(experiment, workdir=str(run))
  about = {"name": "smallest", "settings": config.to_json(experiment)}
  (run / "experiment.json").write_text(json.dumps(about))


def test_a_folder_that_holds_another_experiment(tmp_path):
  a_run(tmp_path)
  (tmp_path / "run/metrics.jsonl").write_text('{"step": 1}\n')
  flags = [f"--workdir={tmp_path / 'run'}"]
  said = refused(tmp_path, "train", *flags, "--seed=1", "--model.mlp_dim=16")
  assert "holds another experiment" in said
  assert "seed: 0 there, 1 here" in said
  assert "model.mlp_dim: 8 there, 16 here" in said
  assert "steps" not in said
  said = refused(tmp_path, "train", *flags, name="other")
  assert "name: 'smallest' there, 'other' here" in said
  # What may change is not refused: the next thing to fail is the data.
  said = refused(tmp_path, "train", *flags, "--steps=9", "--microbatches=1")
  assert "--data.sources.0.paths" in said


def test_an_older_run_without_a_new_setting_goes_on(tmp_path):
  """A setting that the run's time did not know had its default then."""
  a_run(tmp_path)
  path = tmp_path / "run/experiment.json"
  about = json.loads(path.read_text())
  del about["settings"]["optimizer"]["clip"]
  path.write_text(json.dumps(about))
  said = refused(tmp_path, "train", f"--workdir={tmp_path / 'run'}")
  assert "holds another experiment" not in said


@contextlib.contextmanager
def claimed(run, experiment=command.EXPERIMENT):
  """A start in a folder, which nobody else may have meanwhile."""
  with contextlib.ExitStack() as held:
    with claim.claim(run, "smallest", experiment, held):
      yield


def test_two_runs_in_one_folder(tmp_path, tmp_path_factory):
  there = command.trained(tmp_path_factory)
  folder = shutil.copytree(there, tmp_path / "copy")
  run = folder / "run"
  flags = command.train_flags(folder, there / "text.txt")
  with claimed(run, claim.settings(run)):
    said = refused(folder, "train", *flags)
  assert f"--workdir={run}: another process is training in it" in said
  # The lock ends with its holder.
  assert command.call("train", *flags).code == 0


def test_a_folder_whose_name_checkpoints_cannot_bear(tmp_path):
  flags = command.train_flags(tmp_path)
  run = os.fsdecode(bytes(tmp_path) + b"/\xff")
  said = command.call("train", *flags[1:], f"--workdir={run}")
  assert said.code == 2
  assert "not UTF-8" in said.error
  assert not pathlib.Path(run).exists()


def test_what_a_killed_start_left_is_no_obstacle(tmp_path):
  run = tmp_path / "run"
  run.mkdir()
  (run / "experiment.json.123.partial").write_text("{")
  with claimed(run):
    pass
  assert claim.settings(run) == command.EXPERIMENT


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_start_that_fails_leaves_the_folder_as_it_was(error, tmp_path):
  run = tmp_path / "a/b/run"

  def start(experiment, files):
    with claimed(run, experiment):
      (run / "tokenizer").mkdir(exist_ok=True)
      (run / "tokenizer/model").write_text(files)
      raise error

  with pytest.raises(error):
    start(command.EXPERIMENT, "x")
  assert not (tmp_path / "a").exists()
  run.mkdir(parents=True)
  with pytest.raises(error):
    start(command.EXPERIMENT, "x")
  assert command.snapshot(run) == {}
  # Once it is a run, nothing of it is taken away.
  with claimed(run):
    (run / "tokenizer").mkdir()
    (run / "tokenizer/model").write_text("x")
  before = command.snapshot(run)
  with pytest.raises(error):
    start(dataclasses.replace(command.EXPERIMENT, steps=99), "x")
  assert command.snapshot(run) == before


def test_mutant_a_claim_that_is_not_taken_back_is_caught(tmp_path, monkeypatch):
  """A folder claimed for a misspelt path refuses the right one."""
  monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
  flags = command.train_flags(tmp_path)
  with pytest.raises(AssertionError):
    refused(
      tmp_path,
      "train",
      *flags,
      "--data.sources.0.text_field=t",
      "--init_from=x",
    )


@pytest.mark.parametrize("agreed", [True, False])
def test_others_wait_for_what_the_first_process_says(
  agreed, tmp_path, monkeypatch
):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(host, "agreed", lambda said: agreed)
  folder = tmp_path / "run"
  with contextlib.ExitStack() as held:
    if not agreed:
      held.enter_context(pytest.raises(ValueError, match="the first process"))
    with claim.claim(folder, "x", command.EXPERIMENT, held):
      assert agreed
  assert not folder.exists()


def test_the_first_process_tells_whether_it_has_the_folder(
  tmp_path, monkeypatch
):
  told = []
  monkeypatch.setattr(host, "agreed", told.append)
  (tmp_path / "full").mkdir()
  (tmp_path / "full/file").touch()
  with contextlib.ExitStack() as held:
    with claim.claim(tmp_path / "run", "x", command.EXPERIMENT, held):
      assert told == [True]
    with pytest.raises(ValueError, match="holds files"):
      with claim.claim(tmp_path / "full", "x", command.EXPERIMENT, held):
        pass
  assert told == [True, False]
