import json
import subprocess
import types

from llm_jax.reporting import environment, files, hooks, throughput


def _metrics(folder, done=0, until=25, every=10):
  return hooks.Metrics(
    folder,
    every=every,
    done=done,
    until=until,
    learning_rate=lambda step: step / 100,
    flops_per_token=6.0,
    devices=1,
    tensorboard=False,
  )


def _read(metrics, first, last):
  for step in range(first, last + 1):
    metrics.read(step, {"loss": 1 / step, "tokens": 8.0})
  metrics.close()


def test_rows_stand_at_the_first_the_last_and_every_so_often(tmp_path):
  _read(_metrics(tmp_path), 1, 25)
  rows = files.Rows(tmp_path / "metrics.jsonl").read()
  assert [r["step"] for r in rows] == [1, 10, 20, 25]
  # Step s used the rate that s - 1 steps before it led to.
  assert [r["learning_rate"] for r in rows] == [0.0, 0.09, 0.19, 0.24]
  assert [r["loss"] for r in rows] == [1.0, 0.1, 0.05, 0.04]


def test_a_killed_and_resumed_run_writes_each_step_once(tmp_path):
  _read(_metrics(tmp_path / "whole"), 1, 25)
  _read(_metrics(tmp_path / "cut"), 1, 23)  # killed; the checkpoint is of 15
  with (tmp_path / "cut" / "metrics.jsonl").open("a") as f:
    f.write('{"step": 2')
  _read(_metrics(tmp_path / "cut", done=15), 16, 25)

  def numbers(name):
    rows = files.Rows(tmp_path / name / "metrics.jsonl").read()
    return [(r["step"], r["loss"], r["learning_rate"]) for r in rows]

  assert numbers("cut") == numbers("whole")
  # The mutant: a resumed run that drops nothing.
  _read(_metrics(tmp_path / "cut", done=99), 16, 25)
  assert numbers("cut") != numbers("whole")


def test_the_last_step_is_validated_and_its_loss_known(tmp_path):
  class State:
    averaged = {"policy": {"w": 1}}

  metrics = _metrics(tmp_path)
  hook = hooks.Validate(
    metrics, lambda roles: {"loss": roles["policy"]["w"] / 4}, 10, 25
  )
  assert [s for s in range(1, 26) if hook.due(s)] == [10, 20, 25]
  hook.act(20, State)
  metrics.close()
  assert hook.at(20) == 0.25 and hook.at(10) is None
  row = json.loads((tmp_path / "metrics.jsonl").read_text())
  assert row == {"step": 20, "split": "validation", "loss": 0.25}
  never = hooks.Validate(metrics, lambda v: {}, 0, 25)
  assert not any(never.due(s) for s in range(1, 26))


def test_samples_are_files_named_by_their_step(tmp_path):
  class State:
    averaged = {"policy": "weights"}

  found = [{"prompt": "a", "text": "b\ud800"}]  # half of a pair of surrogates
  metrics = _metrics(tmp_path)
  hook = hooks.Sample(metrics, tmp_path, lambda v: found, 10, 25)
  hook.act(20, State)
  metrics.close()
  path = tmp_path / "samples" / "step_00000020.json"
  assert files.read_json(path) == {"step": 20, "samples": found}


def test_what_is_not_training_is_named_and_left_out_of_the_speed(
  tmp_path, monkeypatch
):
  now = [100.0]
  clock = types.SimpleNamespace(monotonic=lambda: now[0])
  monkeypatch.setattr(throughput, "time", clock)
  metrics, said = _metrics(tmp_path, every=1), []

  class State:
    averaged = {"policy": "weights"}

  def slow(variables):
    said.append(metrics._bar._bar._label)
    now[0] += 60.0
    return {"loss": 1.0} if len(said) == 1 else []

  for step in range(1, 5):
    now[0] += 2.0
    metrics.read(step, {"loss": 1.0, "tokens": 8.0})
    assert metrics._bar._bar._label == "training"
    if step == 2:
      hooks.Validate(metrics, slow, 2, 25).act(2, State)
    if step == 3:
      hooks.Sample(metrics, tmp_path, slow, 3, 25).act(3, State)
  metrics.close()
  assert said == ["validating", "sampling"]
  rows = files.Rows(tmp_path / "metrics.jsonl").read()
  # The mutant, a wait that counts, is 8 tokens in 62 s.
  assert rows[-1]["split"] == "train" and rows[-1]["tokens_per_second"] == 4.0


def test_the_profile_covers_the_steps_named(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(
    hooks.jax.profiler, "start_trace", lambda path: calls.append("start")
  )
  monkeypatch.setattr(
    hooks.jax.profiler, "stop_trace", lambda: calls.append("stop")
  )
  hook = hooks.Profile(tmp_path, first=4, count=2)
  for step in range(1, 9):
    calls.append(step)
    if hook.due(step):
      hook.act(step, {})
  assert calls == [1, 2, 3, "start", 4, 5, "stop", 6, 7, 8]


def test_the_environment_is_json_and_says_what_is_missing(monkeypatch):
  monkeypatch.setattr(environment, "_PACKAGES", ("jax", "no-such-package"))

  def no_git(*args, **kwargs):
    raise FileNotFoundError("git")

  monkeypatch.setattr(subprocess, "run", no_git)
  found = environment.describe()
  assert json.loads(json.dumps(found)) == found
  assert found["packages"]["no-such-package"] is None
  assert found["packages"]["jax"] and found["revision"] is None


def test_a_step_that_is_skipped_does_not_move_the_learning_rate(tmp_path):
  """The mutant would write the rate of the step, not of the update."""
  metrics = _metrics(tmp_path, every=1)
  for step, skipped in enumerate((0.0, 1.0, 1.0), 1):
    metrics.read(step, {"loss": 1.0, "tokens": 8.0, "skipped": skipped})
  metrics.close()
  rows = files.Rows(tmp_path / "metrics.jsonl").read()
  assert [r["learning_rate"] for r in rows] == [0.0, 0.0, 0.01]
