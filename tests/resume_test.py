"""Killed or stopped at any instant, a run ends as if nothing had happened.

Real processes on the real command line; `benchmarks/kills.py` does the same
more often.
"""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from benchmarks import sameness
from benchmarks.kills import environment, Start

STEPS = 30

# The demo's experiment on little text; {mutant} is a line that breaks it.
SCRIPT = """
import dataclasses
from experiments.pretrain_tiny_stdlib import EXPERIMENT
from llm_jax import cli
from llm_jax.checkpoints.store import Store
from llm_jax.data import batches
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.reporting import files
from llm_jax.tokenizers.bytes import Bytes

{mutant}
cli.run(dataclasses.replace(
  EXPERIMENT,
  data=Text(sources=(Files(({text!r},), split_by="line"),), length=16),
  tokenizer=Bytes(),
))
"""
FLAGS = (
  "--model.num_layers=1 --model.embed_dim=16 --model.mlp_dim=16"
  " --model.num_heads=2 --model.dropout=0.1 --batch_size=4 --log.every=1"
  " --checkpoints.every=5 --validation.every=5 --validation.batches=1"
  f" --samples.every=0 --steps={STEPS}"
).split()
MUTANTS = {
  "position": "batches.Offline.set_state = lambda self, saved: None",
  "rows": "files.Rows.keep_until = lambda self, step: None",
  "moments": """
restore = Store.restore
def forgetful(self, abstract):
  found = restore(self, abstract)
  if found is None:
    return None
  step, state, position = found
  import jax
  zero = lambda x: x * 0 if x.dtype == "float32" else x
  fresh = jax.tree.map(zero, state.opt_state)
  return step, dataclasses.replace(state, opt_state=fresh), position
Store.restore = forgetful
""",
}


class Home:
  """A folder with an experiment, its text, its cache and its runs."""

  def __init__(self, path):
    self.path = path
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=5)) for _ in range(50)]
    lines = (" ".join(draw.choices(words, k=12)) for _ in range(300))
    (path / "text.txt").write_text("\n".join(lines))

  def command(self, mutant=""):
    script = self.path / "tiny.py"
    if mutant:
      script = self.path / mutant / "tiny.py"  # its name is the run's
      script.parent.mkdir(exist_ok=True)
    text = SCRIPT.format(
      mutant=MUTANTS.get(mutant, ""), text=str(self.path / "text.txt")
    )
    script.write_text(text)
    return [sys.executable, str(script), "train", *FLAGS]

  def start(self, name, mutant="", cache="cache"):
    return Start(
      self.command(mutant),
      self.path / name,
      self.path / cache,
      self.path / f"{name}.log",
      None if cache == "cold" else os.environ["JAX_COMPILATION_CACHE_DIR"],
    )

  def end(self, name, run):
    """What the run leaves when it has come to its end."""
    code = run.process.wait(timeout=120)
    assert code == 0, (self.path / f"{name}.log").read_text()
    return sameness.content(self.path / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  home = Home(tmp_path_factory.mktemp("resume"))
  home.reference = home.start("uninterrupted")
  yield home
  home.reference.process.kill()


@pytest.fixture(scope="module")
def wanted(home):
  found = home.end("uninterrupted", home.reference)
  steps = [r["step"] for r in found["rows"] if r["split"] == "train"]
  assert steps == list(range(1, STEPS + 1))
  return found


@pytest.fixture(scope="module")
def killed(home, wanted):
  """A run killed with two checkpoints, and rows after them."""
  run, folder = home.start("killed"), home.path / "killed"
  while len(sorted(folder.glob("checkpoints/*/files.json"))) < 2:
    assert run.process.poll() is None
  run.kill()
  assert 10 < run.rows() < STEPS
  return folder


def test_killed_in_every_phase_it_ends_the_same(home, request):
  draw = random.Random(1)
  seen = []
  for aim, length in (
    ("data preparation", 0.5),
    ("start-up", 3.0),
    ("compile", 1.0),
    ("checkpoint write", 0.1),
    ("step", 0.2),
  ):
    run = home.start("often", cache="cold")
    assert run.wait_for(aim, draw.random() * length)
    seen.append(run.kill())
  assert len(set(seen)) >= 3, seen
  found = home.end("often", home.start("often", cache="cold"))
  wanted = request.getfixturevalue("wanted")  # made meanwhile
  assert sameness.differences(wanted, found) == []


def test_stopped_it_saves_and_goes_on_the_same(home, wanted):
  run = home.start("stopped")
  assert run.wait_for("step", 0.02)
  run.process.send_signal(signal.SIGTERM)
  assert run.process.wait(timeout=60) == 143
  log = (home.path / "stopped.log").read_text()
  assert "stopped after step" in log and "Traceback" not in log
  last = run.rows()
  assert 0 < last < STEPS
  assert (home.path / f"stopped/checkpoints/{last:08d}/files.json").exists()
  again = home.start("stopped")
  assert sameness.differences(wanted, home.end("stopped", again)) == []
  assert again.resumed() == last  # not a step was lost


def test_what_is_not_restored_would_be_seen(home, wanted, killed):
  """Mutants: each forgets one thing; the run without one ends the same."""
  runs = {}
  for name in ("", *MUTANTS):
    folder = f"mutant_{name}"
    shutil.copytree(killed, home.path / folder)
    runs[folder] = home.start(folder, mutant=name)
  found = {f: home.end(f, run) for f, run in runs.items()}
  lines = {
    f: sameness.differences(wanted, content) for f, content in found.items()
  }
  assert runs["mutant_"].resumed() > 0
  assert lines.pop("mutant_") == []
  assert all(lines.values()), lines
  # Rows kept twice change no parameter; the others do.
  assert not any("array " in line for line in lines["mutant_rows"])
  for name in ("position", "moments"):
    assert any("array " in line for line in lines[f"mutant_{name}"])


def test_damaged_it_goes_on_from_the_one_before(home, wanted, killed):
  shutil.copytree(killed, home.path / "damaged")
  lists = sorted((home.path / "damaged").glob("checkpoints/*/files.json"))
  assert len(lists) >= 2
  newest = lists[-1].parent
  hit = newest / "arrays" / "_METADATA"
  hit.write_bytes(hit.read_bytes()[:-1])
  run = home.start("damaged")
  assert sameness.differences(wanted, home.end("damaged", run)) == []
  assert run.resumed() == int(lists[-2].parent.name)
  log = (home.path / "damaged.log").read_text().splitlines()
  # The kill may have come in the middle of another save: that is not damage.
  warnings = [line for line in log if "passing over" in line]
  warnings = [x for x in warnings if "not written to its end" not in x]
  assert len(warnings) == 1 and str(newest) in warnings[0]


FULL = """
mount -t tmpfs -o size=300k tmpfs small || exit 77
"$@" 2> full.log; echo $?
ls small/run/checkpoints
mount -o remount,size=20m small
"$@" 2> more.log; echo $?
cp -r small/run full
"""


def test_a_full_disk_ends_in_one_line_and_loses_nothing(home, wanted):
  """In a file system of 300 kB, which then grows."""
  for own in ([], ["--user", "--map-root-user"]):
    if not shutil.which("unshare"):
      pytest.skip("needs Linux")
    (home.path / "small").mkdir(exist_ok=True)
    script = ["unshare", *own, "--mount", "sh", "-c", FULL, "sh"]
    command = [*home.command(), "--log.tensorboard=false"]
    done = subprocess.run(
      [*script, *command, "--workdir=small/run"],
      cwd=home.path,
      env=environment(home.path / "cache"),
      capture_output=True,
      text=True,
    )
    if done.returncode in (0, 1) and done.stdout:
      break
  else:
    pytest.skip("may not mount a file system")
  full = (home.path / "full.log").read_text()
  code, *kept, again = done.stdout.split()
  assert code == "2" and again == "0", (done, full)
  (line,) = [x for x in full.splitlines() if "error" in x.lower()]
  assert "Traceback" not in full and line.startswith("error: could not save")
  assert "the disk is full" in line and "small/run/checkpoints" in line
  assert kept  # what was saved before is still there
  more = (home.path / "more.log").read_text()
  assert f"resuming small/run after step {int(kept[-1])}" in more
  found = sameness.content(home.path / "full")
  assert sameness.differences(wanted, found) == []
