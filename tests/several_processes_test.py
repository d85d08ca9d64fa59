"""Two processes on the real command line: stopped, resumed, sampled from."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from tests import command

ROOT = pathlib.Path(__file__).parent.parent

SCRIPT = """
import sys
from llm_jax import cli
from tests import command, drawing
{mutant}
sys.exit(cli.main({experiment}, sys.argv, "smallest"))
"""
# A handler of our own keeps the signal from JAX: one process knows alone.
MUTANT = """
import signal
from llm_jax import verbs
before = verbs._Stop.__init__
def alone(self):
  before(self)
  signal.signal(signal.SIGTERM, lambda *_: None)
verbs._Stop.__init__ = alone
"""


def start(*args, mutant="", experiment="command.EXPERIMENT"):
  """Two processes of one command; an experiment is told as Python has it."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  code = SCRIPT.format(mutant=mutant, experiment=experiment)
  several = [f"--coordinator=localhost:{port}", "--num_processes=2"]
  environment = os.environ | {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    "PYTHONPATH": str(ROOT),
  }
  return [
    subprocess.Popen(
      [
        *[sys.executable, "-c", code, *map(str, args)],
        *several,
        f"--process_id={i}",
      ],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]


def end(processes):
  """[(exit code, stdout without what libraries say, stderr)]."""
  try:
    said = [p.communicate(timeout=60) for p in processes]
  finally:
    for p in processes:
      p.kill()
  return [
    (p.returncode, _ours(out), err)
    for p, (out, err) in zip(processes, said, strict=True)
  ]


def _ours(out):
  return "".join(
    x for x in out.splitlines(keepends=True) if not x.startswith("[Gloo]")
  )


def steps_done(run):
  path = run / "metrics.jsonl"
  text = path.read_text() if path.exists() else ""
  rows = [
    json.loads(x) for x in text.splitlines(keepends=True) if x[-1] == "\n"
  ]
  return max((r["step"] for r in rows), default=0)


def wait_for_step(run, step, processes):
  give_up = time.monotonic() + 60
  while steps_done(run) < step:
    assert all(p.poll() is None for p in processes), end(processes)
    assert time.monotonic() < give_up, "no step"
    time.sleep(0.05)


def test_one_is_told_to_stop_and_both_do_then_both_go_on(tmp_path):
  flags = [*command.train_flags(tmp_path), "--validation.every=0"]
  run = tmp_path / "run"
  processes = start("train", *flags, "--samples.every=0", "--steps=1000000")
  wait_for_step(run, 3, processes)
  processes[1].send_signal(signal.SIGTERM)
  said = end(processes)
  assert [code for code, *_ in said] == [143, 143], said
  done = steps_done(run)
  assert (run / f"checkpoints/{done:08d}").exists()
  more = [f"--steps={done + 2}", f"--samples.every={done + 2}"]
  said = end(start("train", *flags, *more))
  assert [code for code, *_ in said] == [0, 0], said
  assert f"after step {done}" in said[0][2]
  assert not said[1][2]  # one of them speaks
  assert steps_done(run) == done + 2
  assert len(list((run / "samples").iterdir())) == 1


def test_a_signal_kept_from_the_other_is_caught(tmp_path):
  run = tmp_path / "run"
  processes = start(
    *["train", *command.train_flags(tmp_path), "--validation.every=0"],
    *["--samples.every=0", "--steps=1000000"],
    mutant=MUTANT,
  )
  wait_for_step(run, 3, processes)
  processes[1].send_signal(signal.SIGTERM)
  time.sleep(1)
  assert all(p.poll() is None for p in processes)
  for p in processes:
    p.kill()
    p.communicate()
