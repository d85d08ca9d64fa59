"""Several processes that stand and fall together, with a command that is none.

What real jobs make of it is in `losing_test.py`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest

from launch import local

# What the processes do is said by --plan: starts between slashes, processes
# between commas, the last of each for all others.
COMMAND = """
import os, pathlib, signal, sys, time
flags = dict(x[2:].split("=", 1) for x in sys.argv[1:])
index, home = int(flags.get("process_id", 0)), pathlib.Path(flags["home"])
start = len(list(home.glob(f"{index}.*")))
(home / f"{index}.{start}").write_text(f"{os.getpid()}")
starts = flags["plan"].split("/")
acts = starts[min(start, len(starts) - 1)].split(",")
act = acts[min(index, len(acts) - 1)]
def told(number, frame):
  print("told")
  if act == "wait":
    sys.exit(143)
signal.signal(signal.SIGTERM, told)
print("begun", os.environ.get("XLA_FLAGS"), os.environ.get("JAX_PLATFORMS"))
print("says", file=sys.stderr)
if act in ("wait", "deaf"):
  end = time.monotonic() + 60
  while time.monotonic() < end:
    time.sleep(0.05)
while len(list(home.glob(f"*.{start}"))) < int(flags.get("num_processes", 1)):
  time.sleep(0.01)
time.sleep(0.2)
if act == "kill":
  os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(act))
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
  (tmp_path / "stands_for_one.py").write_text(COMMAND)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  return tmp_path


def words(home, plan):
  return ["stands_for_one", f"--home={home}", f"--plan={plan}"]


def run(home, plan, **settings):
  return local.run(local.Local(grace=0.5, **settings), words(home, plan))


def starts(home):
  """How often each process was started."""
  return [len(list(home.glob(f"{i}.*"))) for i in range(3)]


def alive(home):
  found = []
  for path in home.glob("[0-9].[0-9]"):
    with contextlib.suppress(ProcessLookupError):
      os.kill(int(path.read_text()), 0)
      found.append(path.name)
  return found


@pytest.mark.parametrize(
  "plan,restart,code,count",
  [
    ("0,0,0", 2, 0, 1),
    ("0,kill,wait/0", 2, 0, 2),
    ("kill,deaf,wait/0", 1, 0, 2),
    ("0,1,wait", 1, 1, 2),
    ("0,143,deaf/0", 1, 0, 2),  # told by somebody else: a lost machine
    ("0,2,wait", 2, 2, 1),
    ("3,wait,wait", 2, 3, 1),
  ],
)
def test_all_end_with_the_first_that_fails(home, plan, restart, code, count):
  assert run(home, plan, processes=3, restart=restart) == code
  assert starts(home) == [count] * 3
  assert not alive(home)


def test_lines_carry_the_number_of_who_wrote_them(home, capsys, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", f"{local._DEVICES}=8 --xla_a=b")
  assert run(home, "0,1", processes=2, devices=3, restart=1) == 1
  said = capsys.readouterr()
  flags = f"--xla_a=b {local._DEVICES}=3 cpu"
  assert sorted(said.out.splitlines()) == sorted(
    [f"[{i}] begun {flags}" for i in (0, 1)] * 2
  )
  lines = [x for x in said.err.splitlines() if "says" not in x]
  failed = "launch: process 1 of 2 failed with exit code 1; "
  assert lines == [f"{failed}starting again, 1 left", f"{failed}giving up"]


def test_one_process_is_left_as_it_is(home, capfd):
  assert run(home, "kill/0", restart=1) == 0
  said = capfd.readouterr()
  assert said.out.count("begun") == 2 and "[0]" not in said.out
  assert "process 0 of 1 was ended by SIGKILL; starting again" in said.err


def told(home, plan, *signals):
  """Exit code of a launcher that is sent signals, and what it wrote."""
  code = (
    "import sys; from launch import local; sys.exit(local.run("
    f"local.Local(processes=3, restart=3), {words(home, plan)!r}))"
  )
  path = os.pathsep.join([str(home), *sys.path])
  process = subprocess.Popen(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONPATH": path},
    stdout=subprocess.PIPE,
    text=True,
  )
  lines = [process.stdout.readline() for _ in range(3)]
  for number in signals:
    process.send_signal(number)
    time.sleep(0.3)
  return process.wait(timeout=10), lines + process.stdout.readlines()


def test_a_signal_is_passed_on_and_nothing_is_started_again(home):
  code, lines = told(home, "wait", signal.SIGTERM)
  assert code == 143 and starts(home) == [1] * 3 and not alive(home)
  assert sum("told" in line for line in lines) == 3


def test_told_twice_it_ends_what_does_not_listen(home):
  code, _ = told(home, "deaf", signal.SIGTERM, signal.SIGTERM)
  assert code == 137 and starts(home) == [1] * 3 and not alive(home)


def test_mutant_a_launcher_that_forgets_the_others_leaves_them(home):
  """Who only waits, where one has failed, waits for ever."""
  keep = mock.patch.object(local._Attempt, "signal", lambda *a: None)
  kept = mock.patch.object(local._Attempt, "kill", lambda *a: None)
  done = threading.Event()
  before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
  with keep, kept, mock.patch("signal.signal"):
    thread = threading.Thread(
      target=lambda: (run(home, "1,deaf", processes=2), done.set())
    )
    thread.start()
    assert not done.wait(1) and alive(home) == ["1.0"]
    os.kill(int((home / "1.0").read_text()), signal.SIGKILL)
    thread.join()
  assert before == {n: signal.getsignal(n) for n in before}


def test_a_launcher_that_is_killed_takes_them_with_it(home):
  if not local._told_of_the_end():
    pytest.skip("there is no setpriv")
  # They wait to be told; one that writes then has nobody who reads.
  code, lines = told(home, "wait", signal.SIGKILL)
  assert code == -signal.SIGKILL and len(lines) >= 3
  end = time.monotonic() + 10
  while alive(home):
    assert time.monotonic() < end
    time.sleep(0.05)


def test_gpus_are_shared_out(monkeypatch):
  ids = lambda given, i: local.environment(given, i)["JAX_LOCAL_DEVICE_IDS"]
  two = local.Local(processes=2, gpus=4)
  assert [ids(two, i) for i in (0, 1)] == ["0,1,2,3", "4,5,6,7"]
  one = local.Local(processes=4)
  assert [ids(one, i) for i in range(4)] == ["0", "1", "2", "3"]
  assert local.environment(local.Local(), 0) == {}
  # The text for bash says the same.
  text = local.render(two, ["experiments.a", "train"])
  line = text.split("JAX_LOCAL_DEVICE_IDS=")[1].split(" python")[0]
  for i in (0, 1):
    done = subprocess.run(
      ["bash", "-c", f"i={i}; echo {line}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == ids(two, i)


@pytest.mark.parametrize(
  "given,seen,said",
  [
    (local.Local(processes=2, gpus=4), 8, None),
    (local.Local(processes=4), 4, None),
    (local.Local(processes=4), 0, None),  # a CPU
    (local.Local(), 1, None),
    (local.Local(processes=4), 2, "want 4 GPUs, this machine has 2"),
    (local.Local(processes=3, gpus=4), 8, "want 12 GPUs, this machine has 8"),
    (local.Local(processes=2, gpus=4), 0, "nvidia-smi knows of no GPU here"),
    (local.Local(gpus=4), 8, "is of several --processes"),
    (local.Local(processes=2, devices=2, gpus=2), 8, "is not read with --dev"),
  ],
)
@pytest.mark.parametrize("by", ["variable", "nvidia-smi"])
def test_gpus_that_are_not_there(given, seen, said, by, tmp_path, monkeypatch):
  listed = "".join(f"GPU {i}: NVIDIA (UUID: {i})\n" for i in range(seen))
  fake = tmp_path / "nvidia-smi"
  fake.write_text(f"#!/usr/bin/env bash\nprintf '{listed}'\n")
  fake.chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  if by == "variable":
    fake.write_text("exit 1\n")
    ids = ",".join(map(str, range(seen)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ids)
  if said is None:
    local.check(given)
  else:
    with pytest.raises(ValueError, match=said):
      local.check(given)


def script(home, plan, **settings):
  """Exit code of the text, as bash runs it."""
  text = local.render(local.Local(grace=0.5, **settings), words(home, plan))
  (home / "bin").mkdir(exist_ok=True)
  with contextlib.suppress(FileExistsError):
    (home / "bin/python").symlink_to(sys.executable)
  if checker := shutil.which("shellcheck"):
    subprocess.run(
      [checker, "--shell=bash", "-"], input=text, text=True, check=True
    )
  path = f"{home}/bin:{os.environ['PATH']}"
  done = subprocess.run(
    ["bash", "-c", text],
    env=os.environ | {"PATH": path},
    capture_output=True,
    text=True,
    timeout=30,
  )
  return done.returncode


@pytest.mark.parametrize(
  "plan,restart,code,count",
  [("0,0,0", 1, 0, 1), ("kill,deaf,wait/0", 1, 0, 2), ("2,deaf,0", 2, 2, 1)],
)
def test_the_text_does_the_same(home, plan, restart, code, count):
  assert script(home, plan, processes=3, devices=1, restart=restart) == code
  assert starts(home) == [count] * 3
  assert not alive(home)


def test_the_text_of_one_process_starts_it_again(home):
  assert script(home, "1/kill/0", restart=3) == 0
  assert starts(home)[0] == 3
  text = local.render(local.Local(), ["experiments.a", "train", "--b=c d"])
  assert text == "python -m experiments.a train '--b=c d'\n"
