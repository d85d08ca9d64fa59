"""The script of gke: made, followed, gone on with."""

import dataclasses
import shlex

import pytest

from launch.settings import Settings
from tests.launch import cases
from tests.launch.running import Machine

GIVEN = Settings(
  name="run-1",
  topology="v5p-16",
  slices=2,
  zone="us-east5-a",
  bucket="my-bucket",
  cluster="pods",
  container="image",
  spot=True,
  retries=7,
)


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


def made(machine):
  """Flags of the last `create`, and the command as a host has it."""
  line = machine.calls("^xpk workload create")[-1]
  flags, command = line.split(" --command=exec ")
  return flags.split(), shlex.split(command)


def test_made_and_followed_to_its_end(machine):
  code, said = machine.run(machine.script("gke", GIVEN, cases.QUOTED))
  assert code == 0, said
  flags, words = made(machine)
  assert {"--num-slices=2", "--tpu-type=v5p-16", "--spot"} <= set(flags)
  assert {"--max-restarts=7", "--restart-on-exit-codes=1"} <= set(flags)
  ours = ["--workdir=gs://my-bucket/run-1", "--distributed"]
  assert words == ["python", "-m", *cases.QUOTED, *ours]
  # The image has what git has, and nothing that lies beside it.
  assert (machine.fake / "image").read_text() == "constraints.txt\n"
  assert len(machine.calls("--wait-for-job-completion=run-1")) == 1


def test_one_that_is_there_is_followed(machine):
  machine.says(workloads="run-1 RUNNING\nrun-10 FINISHED\n")
  code, said = machine.run(machine.script("gke", GIVEN))
  assert code == 0, said
  assert "run-1 is in the cluster; following it" in said
  assert machine.calls("workload (create|delete)") == []


def test_one_that_has_ended_goes_on(machine):
  machine.says(workloads="run-1 FINISHED\n")
  code, said = machine.run(machine.script("gke", GIVEN))
  assert code == 0, said
  assert len(machine.calls("workload delete .*--workload=run-1")) == 1
  assert len(machine.calls("workload create")) == 1


def test_a_longer_name_is_another(machine):
  machine.says(workloads="run-10 RUNNING\n")
  code, _ = machine.run(machine.script("gke", GIVEN))
  assert code == 0
  assert len(machine.calls("workload create")) == 1


@pytest.mark.parametrize(
  "logs,want", [("EXIT_CODE=2", 2), ("EXIT_CODE=1", 1), ("", 1)]
)
def test_failed(logs, want, machine):
  machine.says(result="125", logs=f"error: --steps=x\n{logs}\n")
  code, said = machine.run(machine.script("gke", GIVEN))
  assert code == want
  assert "error: --steps=x" in said and "run-1 has failed" in said


def test_a_cluster_that_does_not_answer(machine):
  machine.says(broken="")
  code, said = machine.run(machine.script("gke", GIVEN))
  assert code == 1
  assert "[XPK] no such cluster" in said
  assert machine.calls("create") == []


def test_one_made_meanwhile_is_not_overwritten(machine):
  script = machine.script("gke", GIVEN)
  # Another launch is quicker, between the look and the making.
  quicker = script.replace(
    "  mkdir ", '  echo "run-1 X" >>"$FAKE/workloads"\n  mkdir '
  )
  assert quicker != script
  code, said = machine.run(quicker)
  assert code == 1
  assert "do you want to overwrite it?" in said


def test_many_slices_of_a_large_pod():
  given = dataclasses.replace(GIVEN, topology="tpu7x-128")
  assert "--tpu-type=tpu7x-128" in cases.render("gke", given, cases.WORDS)
