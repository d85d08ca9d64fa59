"""Machines are lost, told to stop, stalled or wrong: the run ends the same.

Real processes on the real command line, started by the launcher.
"""

import re
import shutil

import numpy as np
import pytest

from benchmarks import sameness
from tests import jobs

STEPS = 12
SAVES = ("--checkpoints.every=3",)
KILL = """
import threading
def die():
  if once("killed"):
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    threading.Timer(0.001, kill).start()
on(2, 6, "step", die)
"""
TERM = """
tell = lambda: os.kill(os.getpid(), signal.SIGTERM)
on(1, 3, "step", lambda: once("told") and tell())
for step in (4, 5, 6):  # the others hear of it meanwhile
  on(1, step, "step", lambda: time.sleep(0.5))
"""
STOP = """
stop = lambda: os.kill(os.getpid(), signal.SIGSTOP)
on(1, 4, "step", lambda: once("stalled") and stop())
"""
SLEEP = 'on(2, 4, "batch", lambda: time.sleep(60))'
FAIL = """
def fail():
  raise ValueError("--flag: wrong for this process alone")
on(1, 4, "batch", fail)
"""
FORGET = """
from llm_jax.data import batches
batches.Offline.set_state = lambda self, saved: None
"""
THREE = ("--batch_size=6",)
WATCHED = ("--watchdog.seconds=4", "--watchdog.around=0")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  home = jobs.Home(tmp_path_factory.mktemp("losing") / "undisturbed")
  code, _, said = home.launch(4, *SAVES, f"--steps={STEPS}")
  assert code == 0, said
  return home


def test_killed_in_a_step_the_job_comes_back_and_ends_the_same(
  undisturbed, tmp_path
):
  home = jobs.Home(tmp_path / "killed", KILL)
  code, _, said = home.launch(4, *SAVES, f"--steps={STEPS}", restart=1)
  assert code == 0, said
  assert re.search("launch: process . of 4 .*; starting again, 1 left", said)
  assert "resuming" in said and "after step 3" in said
  assert sameness.differences(undisturbed.content(), home.content()) == []


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
  """One process, one device, in float64."""
  home = jobs.Home(tmp_path_factory.mktemp("wide") / "wide", jobs.WIDE)
  code, _, said = home.launch(1, f"--steps={STEPS}")
  assert code == 0, said
  return home.arrays(), home.rows()


def test_stopped_it_goes_on_with_fewer_processes_and_other_meshes(
  wide, tmp_path
):
  """4 processes, one of them told to stop, then 2, then 1."""
  home = jobs.Home(tmp_path / "elastic", jobs.WIDE + TERM)
  code, _, said = home.launch(4, f"--steps={STEPS}")
  assert code == 143, said
  (done,) = map(int, re.findall(r"stopped after step (\d+)", said))
  assert 3 <= done < STEPS - 2
  rows = home.rows()
  assert len(rows) == done
  fsdp = ("--mesh.data=1", "--mesh.fsdp=2")
  code, _, said = home.launch(2, *fsdp, f"--steps={done + 2}")
  assert code == 0 and f"after step {done}" in said, said
  rows += home.rows()
  tensor = ("--mesh.data=2", "--mesh.tensor=2")
  shutil.copytree(home.path / "run", tmp_path / "before")
  assert home.launch(1, *tensor, f"--steps={STEPS}", devices=4)[0] == 0
  rows += home.rows()
  arrays, in_order = wide
  assert len(rows) == len(in_order) == STEPS
  for found, wanted in zip(rows, in_order, strict=True):
    np.testing.assert_array_equal(found, wanted)
  assert furthest(home.arrays(), arrays) < 1e-12
  # The mutant forgets how far it was.
  shutil.rmtree(home.path / "run")
  (tmp_path / "before").rename(home.path / "run")
  home.change(jobs.WIDE + FORGET)
  assert home.launch(1, *tensor, f"--steps={STEPS}", devices=4)[0] == 0
  np.testing.assert_array_equal(home.rows()[0], in_order[0])
  assert furthest(home.arrays(), arrays) > 1e-6


def furthest(found, wanted):
  """The largest difference of two runs' parameters."""
  names = [name for name in wanted if ".params." in name]
  assert names and all(found[n].dtype == np.float64 for n in names)
  return max(np.abs(found[n] - wanted[n]).max() for n in names)


def test_a_stopped_process_is_named_and_the_job_comes_back(tmp_path):
  home = jobs.Home(tmp_path / "stopped", STOP)
  code, _, said = home.launch(
    3, *SAVES, *WATCHED, *THREE, "--steps=5", restart=1
  )
  assert code == 0, said
  for i in (0, 2):
    (line,) = re.findall(rf"\[{i}\] watchdog: (no sign.*)", said)
    assert re.match(r"no sign of life from process 1 \(.*\), in step \d", line)
  assert "starting again" in said and "done after step 5" in said
  # Where each thread stood is on the screen and in the run folder.
  assert said.count("Current thread") == 2
  reports = list((home.path / "run/stalled").iterdir())
  assert len(reports) == 2 and "loop.py" in reports[0].read_text()


def test_who_holds_the_others_up_is_named_by_all(tmp_path):
  home = jobs.Home(tmp_path / "slept", SLEEP)
  code, _, said = home.launch(3, *WATCHED, *THREE, "--steps=9")
  assert code == 1, said
  for i in range(3):
    lines = re.findall(rf"\[{i}\] watchdog: all others wait for (.*)", said)
    assert [x.split(" (")[0] for x in lines] == ["process 2"], said
    assert lines[0].endswith("in step 4, waiting for a batch")


def test_one_that_fails_alone_does_not_wait_for_the_others(tmp_path):
  """JAX would keep it at its end, until all others have come to theirs."""
  home = jobs.Home(tmp_path / "alone", FAIL)
  code, _, said = home.launch(2, "--steps=9", restart=1)
  assert code == 2, said
  assert "[1] error: --flag: wrong for this process alone" in said
  assert "Traceback" not in said and "starting again" not in said
  assert "[0] stopped: another process of the job is lost" in said


def ended(processes):
  """[(exit code, last line of stderr)] of processes."""
  try:
    said = [p.communicate(timeout=60)[1] for p in processes]
  finally:
    for p in processes:
      p.kill()
  assert not any("Traceback" in x or "Fatal" in x for x in said), said
  return [
    (p.returncode, x.splitlines()[-1])
    for p, x in zip(processes, said, strict=True)
  ]


def test_jobs_that_cannot_be_end_in_a_line(tmp_path):
  home = jobs.Home(tmp_path / "wrong")
  ports = [jobs.free_port() for _ in range(3)]
  join = lambda port, i, n, *flags: home.start(
    *(f"--coordinator=localhost:{port}", f"--process_id={i}"),
    *(f"--num_processes={n}", *flags),
  )
  soon = "--join_timeout=5"
  alone = [join(ports[0], 0, 3, soon)]
  lost = [join(ports[1], 1, 2, soon)]
  differ = [
    join(ports[2], i, 3, *(["--seed=1", "--log.every=2"] if i == 1 else []))
    for i in range(3)
  ]
  for code, line in ended(alone):
    assert code == 2
    assert "--num_processes=3: 1 of 3 processes joined in" in line
    assert "missing: 1, 2." in line
  ((code, line),) = ended(lost)
  assert code == 2 and f"--coordinator=localhost:{ports[1]}: process 1" in line
  assert "Connection refused" in line
  for code, line in ended(differ):
    assert code == 2 and "not all processes run the same: process 1 (" in line
    assert "--seed: 1 there, 0 elsewhere; --log.every: 2" in line or (
      "--log.every: 2 there, 1 elsewhere; --seed: 1 there, 0 elsewhere" in line
    )
    assert "process 0" not in line and "process 2" not in line
  assert not (home.path / "run").exists()
