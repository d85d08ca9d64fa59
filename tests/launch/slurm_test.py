"""The script of slurm, and the job that it writes."""

import dataclasses
import os
import signal
import subprocess
import time

import pytest

from launch.settings import Settings
from tests.launch import cases
from tests.launch.running import FAKES, Machine


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


@pytest.fixture
def given(tmp_path):
  bin_ = tmp_path / "venv" / "bin"
  bin_.mkdir(parents=True)
  (bin_ / "python").symlink_to(FAKES / "experiment")
  return Settings(
    name="run-1",
    shared=str(tmp_path / "shared"),
    venv=str(tmp_path / "venv"),
    nodes=2,
    gpus_per_node=4,
  )


def test_submitted_and_followed_to_its_end(machine, given):
  machine.says(outcomes="0")
  code, said = machine.run(machine.script("slurm", given, cases.QUOTED))
  assert code == 0, said
  assert "launch: job 4711" in said and "start 1 of host 0" in said
  folder = f"{given.shared}/run-1"
  assert f"--workdir={folder}/run --distributed" in said
  assert '--samples.prompts=it\'s $5,"a b"' in said
  unpacked = os.listdir(f"{folder}/code-{machine.revision}")
  assert unpacked == ["constraints.txt"]
  assert (
    f"--chdir={folder}/code-{machine.revision}" in machine.calls("^srun")[0]
  )


@pytest.mark.parametrize(
  "outcomes,code,starts",
  [
    ("143\n0", 0, 2),
    ("137\n1\n0", 0, 3),
    ("2\n0", 2, 1),
    ("3\n0", 3, 1),
    ("1\n1\n1\n1\n0", 1, 4),
  ],
)
def test_asks_to_be_started_again_but_for_mistakes(
  outcomes, code, starts, machine, given
):
  machine.says(outcomes=outcomes)
  got, said = machine.run(machine.script("slurm", given))
  assert got == code, said
  assert machine.starts() == [starts]
  assert len(machine.calls("scontrol requeue 4711")) == starts - 1
  assert len(machine.calls("sbatch")) == 1
  assert f"launch: start {starts} ended with {code}" in said


def test_the_container_has_the_disk_and_the_code(machine, given):
  machine.says(outcomes="0")
  given = dataclasses.replace(given, venv=None, container="nvcr.io#a/b:1")
  code, said = machine.run(machine.script("slurm", given))
  assert code == 0, said
  line = machine.calls("^srun")[0].split()
  assert "--container-image=nvcr.io#a/b:1" in line
  assert f"--container-mounts={given.shared}:{given.shared}" in line
  workdir = f"{given.shared}/run-1/code-{machine.revision}"
  assert f"--container-workdir={workdir}" in line


def test_a_disk_that_is_not_there_is_named(machine, given):
  given = dataclasses.replace(given, shared="/proc/none")
  code, said = machine.run(machine.script("slurm", given))
  assert code == 2
  assert "--shared: /proc/none/run-1 cannot be written from here" in said
  assert machine.calls("sbatch") == []


def test_a_name_used_twice(machine, given):
  machine.says(outcomes="hang")
  script = machine.script("slurm", given)
  file = machine.fake / "begun.sh"
  file.write_text(script)
  first = subprocess.Popen(
    ["bash", str(file)],
    cwd=machine.repository,
    env=machine.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  try:
    end = time.monotonic() + 20
    while machine.starts() != [1]:
      assert time.monotonic() < end
      time.sleep(0.05)
    other = dataclasses.replace(given, nodes=3)
    code, said = machine.run(machine.script("slurm", other))
    assert code == 2
    assert "job 4711 of that name runs another command" in said
    assert "scancel 4711" in said
    assert len(machine.calls("sbatch")) == 1
  finally:
    os.killpg(first.pid, signal.SIGKILL)  # its job, too: it is beside it
    first.wait()
  # What the next one follows, with a newer revision of the code.
  newer = script.replace(machine.revision, "f" * 40)
  follower = subprocess.Popen(
    ["bash", "-c", newer],
    cwd=machine.repository,
    env=machine.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  time.sleep(0.5)
  shared = os.path.join(given.shared, "run-1")
  with open(os.path.join(shared, "exit"), "w") as exit_file:
    exit_file.write("0\n")
  (machine.fake / "job").unlink()
  said, _ = follower.communicate(timeout=20)
  assert follower.returncode == 0, said
  assert "job 4711 of that name is there; following it" in said
  assert len(machine.calls("sbatch")) == 1
