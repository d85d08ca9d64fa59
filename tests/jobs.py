"""Real jobs of several processes, each with the smallest experiment."""

import contextlib
import io
import os
import pathlib
import socket
import subprocess
import sys
from unittest import mock

import numpy as np

from benchmarks import sameness
from launch import local
from tests import command

ROOT = pathlib.Path(__file__).parent.parent

# What the processes run: {change} is done to it before it starts.
PROGRAM = '''
import dataclasses, os, pathlib, signal, sys, time
import numpy as np
from llm_jax import cli
from llm_jax.reporting import report
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training import watchdog
from tests import command

HOME = pathlib.Path({home!r})
PROCESS = next(
  (int(x.split("=")[1]) for x in sys.argv if x.startswith("--process_id=")), 0
)

def once(name):
  """Whether it is the first time that this is asked, of all starts."""
  try:
    (HOME / name).touch(exist_ok=False)
  except FileExistsError:
    return False
  return True

# Every process keeps the rows that it puts on the mesh, in their order.
place = mesh_lib.place
def placed(batch, mesh):
  with (HOME / f"rows.{{PROCESS}}.{{os.getpid()}}").open("ab") as f:
    np.save(f, np.asarray(batch["tokens_BT"]))
  return place(batch, mesh)
mesh_lib.place = placed

def on(process, step, doing, act):
  """Does something where a process is at a place, before it goes on."""
  beat = watchdog.Watch.beat
  def beaten(self, at, what):
    beat(self, at, what)
    if (PROCESS, at, what) == (process, step, doing):
      act()
  watchdog.Watch.beat = beaten

report.write = lambda folder: folder  # its pictures take seconds
EXPERIMENT = command.EXPERIMENT
{change}
if __name__ == "__main__":
  cli.run(EXPERIMENT)
'''
# Parameters and sums in float64, the same on every mesh.
WIDE = """
import jax
from llm_jax import weights
from tests import drawing
jax.config.update("jax_enable_x64", True)
weights._base = drawing._base
EXPERIMENT = dataclasses.replace(
  EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, dtype="float64")
)
"""


class Home:
  """A folder with a program, its text and its runs."""

  def __init__(self, path: pathlib.Path, change: str = ""):
    self.path = path
    path.mkdir(exist_ok=True)
    command.text_file(path)
    self.change(change)

  def change(self, change: str) -> None:
    """Another program of the same name."""
    text = PROGRAM.format(home=str(self.path), change=change)
    (self.path / f"job_{self.path.name}.py").write_text(text)

  def command(self, *flags: str) -> list[str]:
    return [
      *(f"job_{self.path.name}", "train"),
      *command.train_flags(self.path, self.path / "text.txt"),
      *("--validation.every=0", "--samples.every=0", *flags),
    ]

  def environment(self) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{self.path}{os.pathsep}{ROOT}"}

  def launch(self, processes: int, *flags: str, devices: int = 1, **settings):
    """What the launcher gives and writes: (exit code, stdout, stderr)."""
    given = local.Local(processes=processes, devices=devices, **settings)
    out, err = io.StringIO(), io.StringIO()
    with (
      mock.patch.dict(os.environ, self.environment()),
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
    ):
      code = local.run(given, self.command(*flags))
    return code, out.getvalue(), err.getvalue()

  def start(self, *flags: str, **environment: str):
    """One process of a job, without a launcher."""
    return subprocess.Popen(
      [sys.executable, "-m", *self.command(*flags)],
      env=self.environment() | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def content(self):
    return sameness.content(self.path / "run")

  def arrays(self):
    return sameness.arrays(self.path / "run")

  def rows(self) -> list[np.ndarray]:
    """Rows of each global batch that was asked for, in order; forgets them."""
    found: dict[int, list[np.ndarray]] = {}
    for path in self.path.glob("rows.*"):
      batches = found.setdefault(int(path.name.split(".")[1]), [])
      with path.open("rb") as f, contextlib.suppress(EOFError):
        while True:
          batches.append(np.load(f))
      path.unlink()
    parts = [found[process] for process in sorted(found)]
    return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


def free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]
