"""Who holds a job up, by what its processes wrote; and who is left alone."""

import json
import os
import threading
import time
from unittest import mock

import pytest

from llm_jax.training import watchdog
from llm_jax.training.watchdog import Watch, Watchdog


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(value))
  os.replace(partial, path)


def read(path):
  return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture
def watch(tmp_path):
  """Watches of process 0, with ends that are counted, not had."""
  made, ended = [], threading.Event()

  def make(processes=1, seconds=0.2, around=0.0, **more):
    its = Watch(
      *(Watchdog(seconds, around), (0, processes), "this job"),
      *(tmp_path, write, read),
      **more,
    )
    made.append(its)
    return its

  def end(code):
    assert code == 1
    ended.set()
    for its in made:
      its._over.set()

  make.ended, make.folder = ended, tmp_path
  with mock.patch.object(os, "_exit", end):
    yield make
    for its in made:
      its.close()


def test_a_step_that_does_not_end_is_told(watch, capfd):
  its = watch()
  for step in range(1, 4):
    its.beat(step, "step")
  assert watch.ended.wait(3)
  said = capfd.readouterr().err
  assert "in step 3, at work, for 0 s; --watchdog.seconds=0.2 allows" in said
  assert "watchdog.py" in said and "wait" in said  # stacks of threads
  time.sleep(0.1)
  (report,) = (watch.folder / "stalled").iterdir()
  assert report.name == "step_00000003_0.json"
  assert read(report)["said"][0] in said


def test_steps_that_end_are_left_alone(watch):
  its = watch()
  for step in range(1, 12):
    its.beat(step, "step")
    assert not watch.ended.wait(0.05)


@pytest.mark.parametrize("doing,step", [("step", 2), ("Save", 9), ("x", 9)])
def test_what_may_take_longer(watch, doing, step):
  """The first step, whose numbers come with the second, and hooks."""
  its = watch(around=0.6, slow=("x",))
  its.beat(1, "step")
  its.beat(step, doing)
  assert not watch.ended.wait(0.4)
  assert watch.ended.wait(2)


def test_before_all_steps_whatever_moves_is_left_alone(watch, capfd):
  its = watch(seconds=0.0, around=0.4)
  for _ in range(12):
    its.moves("tokenising")
    assert not watch.ended.wait(0.05)
  assert watch.ended.wait(3)
  said = capfd.readouterr().err
  assert "has been busy with: tokenising, for 0 s; --watchdog.around=" in said


def test_within_steps_only_steps_are_minded(watch):
  """What moves in a step that stalls is no excuse."""
  its = watch()
  for step in (1, 2, 3):
    its.beat(step, "step")
  for _ in range(60):
    its.moves("a bar")
    if watch.ended.wait(0.05):
      break
  assert watch.ended.is_set()


def test_zero_is_any_time(watch):
  its = watch(seconds=0.0, around=0.1)
  for step in (1, 2, 3):
    its.beat(step, "step")
  assert not watch.ended.wait(0.4)
  none = watch(seconds=0.0)
  assert not any(t.is_alive() for t in none._threads)


def test_closed_it_minds_nothing(watch):
  its = watch()
  its.beat(9, "step")
  its.close()
  assert not watch.ended.wait(0.4)


@pytest.mark.parametrize("steps,is_stop", [((3600,), True), ((1, 1, 1), False)])
def test_a_process_that_was_stopped_as_a_whole_is_forgiven(
  watch, steps, is_stop
):
  """^Z and fg: its clock went on, its threads did not. Little by little, no."""
  its = watch(seconds=2.5)
  its.beat(1, "step")
  its.beat(9, "step")
  clock, away = time.monotonic, 0.0
  with mock.patch.object(watchdog.time, "monotonic", lambda: clock() + away):
    for seconds in steps:
      away += seconds
      ended = watch.ended.wait(0.7)
    assert ended != is_stop


def note(folder, process, count, said=1, job="this job", **more):
  its = {"process": process, "host": f"host{process}", "job": job}
  its |= {"count": count, "said": said, "step": count // 4, "doing": "batch"}
  write(folder / f"heartbeats/{process:05d}.json", its | more)


def blame(its, folder, silent=()):
  """What is said, where all but some go on writing."""
  wait = time.sleep

  def slept(seconds):
    for path in (folder / "heartbeats").glob("*.json"):
      found = read(path)
      if found["process"] not in silent:
        write(path, found | {"said": found["said"] + 1})
    wait(0.01)

  with mock.patch.object(watchdog.time, "sleep", slept):
    return its._blame()


def test_the_one_that_is_behind_is_named(watch):
  its = watch(processes=4, seconds=99.0)
  for process, count in enumerate((41, 41, 38, 42)):
    note(watch.folder, process, count)
  wait = "all others wait for process 2 (host2), in step 9, waiting for a batch"
  assert blame(its, watch.folder) == wait
  note(watch.folder, 2, 41)
  note(watch.folder, 3, 41)
  assert "all processes are at the same place" in blame(its, watch.folder)


def test_before_all_steps_each_is_told(watch):
  its = watch(processes=2, seconds=99.0)
  note(watch.folder, 0, 0, doing="tokenizer")
  note(watch.folder, 1, 0, doing="making the model")
  said = "none is behind: process 0 (host0), busy with: tokenizer; process 1"
  assert blame(its, watch.folder).startswith(said)
  note(watch.folder, 0, 5)  # in its steps: it waits
  wait = "all others wait for process 1 (host1), busy with: making the model"
  assert blame(its, watch.folder) == wait


def test_the_one_that_writes_no_more_is_named_before(watch):
  its = watch(processes=4, seconds=99.0)
  for process, count in enumerate((41, 41, 38, 42)):
    note(watch.folder, process, count)
  said = blame(its, watch.folder, silent={3})
  assert said.startswith("no sign of life from process 3 (host3), in step 10")
  # One that left has said so.
  note(watch.folder, 3, 42, left=True)
  assert "process 2" in blame(its, watch.folder, silent={3})


def test_what_another_start_left_behind_is_nothing(watch):
  """Mutant: taken for this start's, it would put the blame on another."""
  its = watch(processes=3, seconds=99.0)
  for process in (0, 1):
    note(watch.folder, process, 41)
  note(watch.folder, 2, 999, job="the job before")
  assert "process 2 (?), which wrote nothing yet" in blame(its, watch.folder)
  note(watch.folder, 2, 999)
  assert "process 2" not in blame(its, watch.folder)


def test_a_folder_that_does_not_answer_holds_nothing_up(watch):
  its = watch(processes=2, seconds=99.0)
  its._read = lambda path: time.sleep(60)
  start = time.monotonic()
  assert its._within(0.2, its._blame) is None
  assert time.monotonic() - start < 2
