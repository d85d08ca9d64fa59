"""What comes before steps, and `evaluate`, ends where nothing moves on."""

import os
import shutil
import threading

import pytest

from llm_jax import build, evaluating
from llm_jax.training.watchdog import Watch
from tests import command


@pytest.fixture
def stuck(monkeypatch):
  """Something that goes on until the program would have ended."""
  ended = threading.Event()
  monkeypatch.setattr(os, "_exit", lambda code: ended.set())

  def wait(*given, **more):
    assert ended.wait(20)
    raise ValueError("that was the end")

  return wait


AROUND = "--watchdog.around=0.4"


def test_data_that_are_never_ready(tmp_path, stuck, monkeypatch):
  monkeypatch.setattr(build, "data", stuck)
  said = command.call("train", *command.train_flags(tmp_path), AROUND)
  assert "busy with: starting, for" in said.err
  assert "--watchdog.around=0.4 allows no more" in said.err
  assert (tmp_path / "run/stalled/step_00000000_0.json").exists()


def test_a_run_that_could_not_begin_leaves_nobody_minding(tmp_path):
  flags = command.train_flags(tmp_path, tmp_path / "none.txt")
  before = threading.active_count()
  assert command.call("train", *flags).code == 2
  assert not (tmp_path / "run").exists()
  for thread in threading.enumerate():
    if thread.name == "watchdog":
      thread.join(30)
  assert threading.active_count() <= before


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stalling") / "trained"
  return shutil.copytree(command.trained(tmp_path_factory), folder)


def flags_of(run):
  return [f"--workdir={run / 'run'}", f"--data.cache={run / 'cache'}"]


def test_an_evaluation_that_does_not_move(run, stuck, monkeypatch):
  monkeypatch.setattr(evaluating, "_measure", stuck)
  said = command.call("evaluate", *flags_of(run), AROUND)
  assert "--watchdog.around=0.4 allows no more" in said.err
  assert (run / "run/evaluating/stalled").exists()


def test_all_that_goes_on_is_heard(tmp_path, run, monkeypatch):
  heard = []
  moves = lambda self, doing: heard.append(doing)
  monkeypatch.setattr(Watch, "moves", moves)
  assert command.call("train", *command.train_flags(tmp_path)).code == 0
  assert {"tokenizer", "making the model"} <= set(heard)
  heard.clear()
  command.call("evaluate", *flags_of(run))
  assert "evaluating data" in heard
