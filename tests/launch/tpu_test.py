"""Scripts of tpu-vm and queued-resource: create, run, retry, delete."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from launch.settings import Settings
from tests.launch import cases
from tests.launch.running import Machine

GIVEN = Settings(
  name="run-1", topology="v5p-16", zone="us-east5-a", bucket="my-bucket"
)
SLICES = dataclasses.replace(GIVEN, topology="v5p-8", slices=2)


@pytest.fixture
def machine(tmp_path):
  machine = Machine(tmp_path)
  yield machine
  machine.end()


def test_made_run_on_all_hosts_and_deleted(machine):
  machine.says(outcomes="0")
  code, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert code == 0, said
  assert machine.starts() == [1, 1]
  begins = "start 1 of host 0: -m experiments.pretrain_tiny_stdlib train"
  assert said.count(begins) == 1
  assert "--steps=3 --workdir=gs://my-bucket/run-1 --distributed" in said
  assert "start 1 of host 1" not in said  # one log is shown
  assert [c.split()[4] for c in machine.calls("^gcloud")] == (
    ["describe", "describe", "create", "describe", "scp"]
    + ["ssh"] * 6  # state, install, start, follow, ended, follow
    + ["describe", "delete"]
  )
  for host in "01":
    environment = (machine.fake / f"starts/{host}.env").read_text()
    assert "PYTHONUNBUFFERED=1" in environment
    # Where `git archive` was unpacked.
    folder = (machine.fake / f"starts/{host}.folder").read_text().strip()
    assert folder.endswith(f"llm_jax/run-1/code-{machine.revision}")
  assert not (machine.fake / "tpu").exists()


@pytest.mark.parametrize(
  "outcomes,code,starts",
  [
    ("143\n0", 0, 2),
    ("137\n0", 0, 2),
    ("2", 2, 1),
    ("3", 3, 1),
    # One host's: told before the others', which only lost a partner.
    ("1 0=2", 2, 1),
    ("0 1=1\n0", 0, 2),
    # The others go on: they are ended, and all start again together.
    ("hang 1=1\n0", 0, 2),
    ("hang 1=2", 2, 1),
  ],
)
def test_started_again_but_for_mistakes(outcomes, code, starts, machine):
  machine.says(outcomes=outcomes)
  got, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert got == code, said
  assert machine.starts() == [starts, starts]
  assert machine.alive() == []
  is_there = (machine.fake / "tpu").exists()
  assert is_there == (code != 0)
  assert ("still there, and paid for" in said) == is_there


def test_retries_are_counted(machine):
  machine.says(outcomes="1\n1\n0")
  given = dataclasses.replace(GIVEN, retries=1)
  code, said = machine.run(machine.script("tpu-vm", given))
  assert code == 1 and machine.starts() == [2, 2]
  assert "start 2 of 2" in said and "start 3" not in said


def test_preempted_is_made_anew(machine):
  machine.says(outcomes="preempt\n0")
  given = dataclasses.replace(GIVEN, spot=True)
  code, said = machine.run(machine.script("tpu-vm", given))
  assert code == 0, said
  assert "is PREEMPTED: it is made anew" in said
  assert len(machine.calls("tpu-vm create .*--spot")) == 2
  assert len(machine.calls("tpu-vm delete")) == 2
  assert machine.starts() == [2, 2]


def test_no_capacity_is_tried_again(machine):
  machine.says(outcomes="0", scarce="no\nno\n")
  code, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert code == 0, said
  assert len(machine.calls("tpu-vm create")) == 3


def begin(machine, script):
  """A launch in the background, in a process group of its own."""
  file = machine.fake / "begun.sh"
  file.write_text(script)
  return subprocess.Popen(
    ["bash", str(file)],
    cwd=machine.repository,
    env=machine.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def test_a_name_used_twice_is_followed_not_started_twice(machine):
  machine.says(outcomes="hang\n0")
  script = machine.script("tpu-vm", GIVEN)
  first = begin(machine, script)
  wait_for(lambda: machine.starts() == [1, 1] and len(machine.alive()) == 2)
  os.killpg(first.pid, signal.SIGKILL)  # its terminal is closed
  first.communicate()
  before = machine.alive()
  assert len(before) == 2
  # Another command under that name.
  words = ["experiments.grpo_tiny_stdlib", "train"]
  code, said = machine.run(machine.script("tpu-vm", GIVEN, words))
  assert code == 2
  assert "runs another command: give another --name" in said
  assert machine.alive() == before
  # The same command: the same run.
  second = begin(machine, script)
  wait_for(lambda: len(machine.calls("ssh .* follow")) >= 2)
  assert machine.alive() == before and machine.starts() == [1, 1]
  machine.end()  # both hosts lose it: all start together again
  said, _ = second.communicate(timeout=30)
  assert second.returncode == 0, said
  assert "run-1 is going on; following it" in said
  assert machine.starts() == [2, 2]


def wait_for(condition):
  end = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.05)


def test_another_kind_of_tpu_is_refused(machine):
  machine.says(tpu="READY\tv6e-8\tmade-by-launch\n")
  code, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert code == 2
  assert "run-1 is there, a v6e-8 and no v5p-16: give another --name" in said
  assert machine.calls("create|delete|ssh") == []


def test_what_a_person_made_is_used_and_never_deleted(machine):
  machine.says(outcomes="0", tpu="READY\tv5p-16\t\n")
  for host in "01":
    (machine.fake / "hosts" / host).mkdir(parents=True)
  code, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert code == 0, said
  assert machine.calls("create|delete") == []
  machine.says(tpu="PREEMPTED\tv5p-16\t\n")
  code, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert code == 2
  assert "run-1 was not made by a launch, and is left as it is" in said
  assert machine.calls("create|delete") == []


def test_what_gcloud_cannot_say_is_not_taken_for_nothing(machine):
  machine.says(broken="")
  given = dataclasses.replace(GIVEN, retries=1)
  code, said = machine.run(machine.script("tpu-vm", given))
  assert code == 2
  assert "PERMISSION_DENIED" in said and "nothing was done" in said
  assert len(machine.calls()) == 1  # the next time it would say the same


@pytest.mark.parametrize(
  "target,program",
  [
    ("tpu-vm", "gcloud"),
    ("queued-resource", "gcloud"),
    ("gke", "xpk"),
    ("slurm", "sbatch"),
  ],
)
def test_a_program_that_is_missing_is_named(target, program, machine, tmp_path):
  for name in ("bash", "git"):
    (tmp_path / name).symlink_to(shutil.which(name))
  _, given, _ = cases.CASES[target]
  done = subprocess.run(
    ["bash", "-c", machine.script(target, given)],
    cwd=machine.repository,
    env={"PATH": str(tmp_path)},
    capture_output=True,
    text=True,
  )
  said = f"launch: {program} is not installed here; nothing was done\n"
  assert (done.returncode, done.stderr) == (2, said)


def test_a_state_that_only_a_person_mends(machine):
  machine.says(tpu="STOPPED\tv5p-16\tmade-by-launch\n")
  code, said = machine.run(machine.script("tpu-vm", GIVEN))
  assert code == 2
  assert "run-1 is STOPPED: start or delete it, then again" in said


def test_kept(machine):
  machine.says(outcomes="0")
  given = dataclasses.replace(GIVEN, keep=True)
  code, said = machine.run(machine.script("tpu-vm", given))
  assert code == 0
  assert machine.calls("delete") == []
  assert "still there, and paid for, until: gcloud compute tpus" in said
  # Nothing is installed again.
  installed = len(machine.calls("python3 -m uv venv"))
  assert installed == 2
  code, said = machine.run(machine.script("tpu-vm", given))
  assert code == 0
  assert len(machine.calls("python3 -m uv venv")) == installed


def test_a_process_that_holds_the_tpu_is_named_or_ended(machine):
  holder = subprocess.Popen(["/bin/sleep", "60"])
  try:
    machine.says(outcomes="0", held=str(holder.pid))
    code, said = machine.run(machine.script("tpu-vm", GIVEN))
    assert code == 2
    assert f"the TPU is held by process {holder.pid}:" in said
    assert "/bin/sleep 60" in said and "--kill_stale" in said
    assert holder.poll() is None
    given = dataclasses.replace(GIVEN, kill_stale=True)
    code, said = machine.run(machine.script("tpu-vm", given))
    assert code == 0, said
    assert holder.wait(timeout=10) == -9
    assert machine.starts() == [1, 1]
  finally:
    holder.kill()
    holder.wait()


def test_slices_are_waited_for_and_all_of_them_run(machine):
  machine.says(outcomes="0")
  code, said = machine.run(machine.script("queued-resource", SLICES))
  assert code == 0, said
  assert "run-1 is WAITING_FOR_RESOURCES; waiting" in said
  assert "run-1 is PROVISIONING; waiting" in said
  assert machine.calls("create .*--node-count=2 --node-prefix=run-1")
  assert machine.calls("delete .*--force")
  assert machine.starts() == [1, 1]


def test_suspended_slices_are_asked_for_anew(machine):
  machine.says(outcomes="suspend\n0")
  code, said = machine.run(machine.script("queued-resource", SLICES))
  assert code == 0, said
  assert len(machine.calls("queued-resources create")) == 2
  assert machine.starts() == [2, 2]


def test_a_request_that_always_fails_is_given_up(machine, monkeypatch):
  monkeypatch.setenv("IN_THE_END", "FAILED")
  given = dataclasses.replace(SLICES, retries=1)
  code, said = machine.run(machine.script("queued-resource", given))
  assert code == 1
  why = "run-1 is FAILED; why: gcloud compute tpus queued-resources describe"
  assert why in said
  assert len(machine.calls("queued-resources create")) == 3


def test_interrupted_the_run_goes_on(machine):
  machine.says(outcomes="hang")
  launch = begin(machine, machine.script("tpu-vm", GIVEN))
  wait_for(lambda: len(machine.calls("ssh .* follow")) >= 1)
  os.killpg(launch.pid, signal.SIGINT)
  said, _ = launch.communicate(timeout=15)
  assert launch.returncode == 130
  assert "the run goes on; the same command follows it" in said
  assert len(machine.alive()) == 2
  assert machine.calls("delete") == []
  # What it says ends the run.
  command = said.split("this ends it: ")[1].splitlines()[0]
  code, said = machine.run(f"{command}\n")
  assert code == 0, said
  assert machine.alive() == []


def test_a_key_that_only_a_command_has_heard_is_heard(machine):
  """Once, of some 30 times, bash had not heard of it, and went on following."""
  machine.says(outcomes="hang")
  launch = begin(machine, machine.script("tpu-vm", GIVEN))
  found = []

  def tee():
    """Its number: of that name, and in the launch's group."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
      with contextlib.suppress(OSError):
        number, name, _, _, group = stat.read_text().split()[:5]
        if (name, group) == ("(tee)", str(launch.pid)):
          found.append(int(number))
    return found

  wait_for(tee)
  os.kill(found[0], signal.SIGINT)
  said, _ = launch.communicate(timeout=15)
  assert launch.returncode == 130
  assert "the run goes on; the same command follows it" in said


def test_nothing_starts_where_a_slice_does_not_answer(machine):
  machine.says(outcomes="0", unreachable="1")
  given = dataclasses.replace(SLICES, retries=1)
  code, said = machine.run(machine.script("queued-resource", given))
  assert code == 1
  assert "1 of 2 hosts answer" in said
  assert machine.starts() == []


def test_mutant_without_counting_one_slice_would_start_alone(machine):
  machine.says(outcomes="0", unreachable="1")
  script = machine.script("queued-resource", SLICES)
  mutant = script.replace("if ((answered != hosts)); then", "if false; then")
  assert mutant != script
  machine.run(mutant)
  assert machine.starts() == [1]
