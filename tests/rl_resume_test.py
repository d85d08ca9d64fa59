"""Killed at any instant of an update, a run ends as if nothing had happened."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from unittest import mock

import pytest

from benchmarks import sameness
from llm_jax import on_policy
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.experiment import Validation
from llm_jax.judges.function import Function
from llm_jax.objectives import group
from llm_jax.sharding import mesh as mesh_lib
from tests import command, drawing

ROOT = pathlib.Path(__file__).parent.parent

SCRIPT = """
import builtins, os, pathlib, signal, sys, time
import jax
from llm_jax import cli, on_policy, reinforcing
from llm_jax.on_policy import OnPolicy
from llm_jax.ops import sampling
from tests import rl_resume_test

def kill(*_):
  os.kill(os.getpid(), signal.SIGKILL)

home = pathlib.Path({home!r})
{kill}
its = rl_resume_test.experiment(home)
sys.exit(cli.main(its, sys.argv, "smallest"))
"""
# One after the other, until it has come so far.
KILLS = {
  # While the fourth of the first completions is scored, in a thread.
  "reward": """
calls = []
def counted():
  calls.append(0)
  if len(calls) == 4:
    kill()
builtins.scoring = counted
""",
  # When the second update's are drawn and scored, and none is learned from.
  "before": """
next_ = OnPolicy.next
def counted(self, state):
  batch = next_(self, state)
  if (self._updates, self._served) == (2, 1):
    kill()
  return batch
OnPolicy.next = counted
""",
  # In the second epoch of that update, with a checkpoint in its middle.
  "epoch": """
next_, middle = OnPolicy.next, home / "killed/checkpoints/00000006/files.json"
def counted(self, state):
  batch = next_(self, state)
  if (self._updates, self._served) == (2, 4):
    while not middle.exists():
      time.sleep(0.01)
    kill()
  return batch
OnPolicy.next = counted
""",
  # While the third token of completions is drawn.
  "rollout": """
make = reinforcing.functions
def functions(*given):
  its, tokens = make(*given), []
  def one(_):
    tokens.append(0)
    if len(tokens) == 3:
      kill()
  def draw(*args):
    sample = sampling.sample
    def told(keys, *rest):
      found = sample(keys, *rest)
      jax.debug.callback(one, found[0])
      return found
    sampling.sample = told
    return jax.block_until_ready(its.draw(*args))
  return its._replace(draw=draw)
reinforcing.functions = functions
""",
}


# Tells who wants to know that it is asked.
MORTAL = """
import builtins

def score(prompt, completion, reference):
  getattr(builtins, "scoring", lambda: None)()
  return completion.count("e") / 7 - len(completion) / 9
"""


def experiment(home):
  (home / "mortal.py").write_text(MORTAL)
  its = drawing.experiment(home)
  return dataclasses.replace(
    its,
    judge=Function(f"{home}/mortal.py:score"),
    objective=group.grpo(4),
    rollouts=dataclasses.replace(its.rollouts, drawings=2, widths=2),
    shaping=dataclasses.replace(its.shaping, scale="running", centre=True),
    average=0.9,
    steps=12,
    mesh=mesh_lib.MeshShape(1, 1, 1),
    microbatches=1,
    checkpoints=Checkpoints(every=2),
    validation=Validation(every=0),
  )


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  """A home with a whole run, and one killed as often as there are KILLS."""
  home = tmp_path_factory.mktemp("rl_resume")
  command.train(experiment(home), home / "whole")
  for kill in KILLS.values():
    code = SCRIPT.format(kill=kill, home=str(home))
    done = subprocess.run(
      [sys.executable, "-c", code, "train", f"--workdir={home / 'killed'}"],
      env=os.environ | {"PYTHONPATH": str(ROOT)},
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
  return home


def ended(home, name):
  """What is not the same once a copy of the killed run has come to its end."""
  shutil.copytree(home / "killed", home / name)
  steps = home / name / "checkpoints"  # the last of them in mid-update
  shutil.rmtree(steps / "00000008", ignore_errors=True)
  assert (steps / "00000006/position.npz").exists()
  found = command.train(experiment(home), home / name)
  wanted = sameness.content(home / "whole")
  assert [r["step"] for r in wanted["rows"]] == list(range(1, 13))
  return sameness.differences(wanted, found)


def test_killed_again_and_again_it_ends_the_same(killed):
  assert ended(killed, "again") == []


@pytest.mark.parametrize(
  "forgotten",
  [
    *({"updates": 0}, {"asked": 0}, {"rows": {}}),
    *({"beta": 0.05}, {"moments": [0, 0, 0]}),
  ],
  ids=lambda x: str(*x),
)
def test_what_is_forgotten_is_seen(killed, forgotten):
  """Mutants."""
  set_state = on_policy.OnPolicy.set_state
  wrong = lambda self, saved: set_state(self, saved | forgotten)
  with mock.patch.object(on_policy.OnPolicy, "set_state", wrong):
    assert ended(killed, str(*forgotten))
