"""Kills a run again and again; what is left must be what would have been.

  python -m benchmarks.kills --kills=25 --seed=0

One run of the demo's experiment, made small, goes uninterrupted. The same
command is then started again and again in another folder, and each time ended
with SIGKILL at a random instant of a phase that is drawn; the last start goes
to the end. Rows of metrics.jsonl (but for timings), every array of the last
checkpoint, tokenizer and samples must be the same to the last bit. Exits 1
where they are not. About 8 minutes on four cores.
"""

import argparse
import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import sameness

PHASES = ("start-up", "data preparation", "compile", "step", "checkpoint write")
FLAGS = (
  "--model.num_layers=2 --model.embed_dim=64 --model.mlp_dim=128"
  " --model.num_heads=2 --model.dropout=0.1 --data.length=64 --batch_size=8"
  " --steps=80 --checkpoints.every=8 --validation.every=8"
  " --validation.batches=2 --samples.every=40 --samples.max_new_tokens=8"
  " --log.every=1"
).split()
_POLL = 0.002  # seconds


class Start:
  """One start of a training command, watched from outside.

  Args:
    command: what to run; `--workdir` is added.
    folder: the run's.
    cache: XDG_CACHE_HOME of the run: prepared data and compiled programs.
    log: gets what the run says.
    compiled: where compiled programs are kept instead.
  """

  def __init__(
    self,
    command: list[str],
    folder: pathlib.Path,
    cache: pathlib.Path,
    log: pathlib.Path,
    compiled: str | None = None,
  ):
    self._folder, self._cache, self._log = folder, cache / "llm_jax", log
    self._partial, self._boards = self._unfinished(), self._events()
    with log.open("w") as f:
      self.process = subprocess.Popen(
        [*command, f"--workdir={folder}"],
        env=environment(cache, compiled),
        stdout=f,
        stderr=f,
      )

  def phase(self) -> str:
    """What the run is doing, by what lies in its folders."""
    if self._unfinished().items() - self._partial.items():
      return "checkpoint write"
    if not self._events() - self._boards:
      if self._is_preparing():
        return "data preparation"
      return "start-up"
    return "step" if self.rows() > self.resumed() else "compile"

  def resumed(self) -> int:
    """The step that this start resumed after."""
    for line in self._log.read_text().splitlines():
      if line.startswith("resuming"):
        return int(line.split()[-1])
    return 0

  def rows(self) -> int:
    """The last step in metrics.jsonl."""
    rows = sameness.rows(self._folder)
    return rows[-1]["step"] if rows else 0

  def wait_for(
    self, phase: str, seconds: float, steps: int = 0, limit: float = 300
  ) -> bool:
    """Waits for a phase, and so long in it.

    Args:
      phase: one of PHASES.
      seconds: how long to wait in it.
      steps: how many steps this start must have made before.
      limit: seconds after which to give up.

    Returns:
      False where the run ended first, or the limit was reached.
    """
    deadline = time.monotonic() + limit
    while self.phase() != phase or self.rows() - self.resumed() < steps:
      if self.process.poll() is not None or time.monotonic() > deadline:
        return False
      time.sleep(_POLL)
    time.sleep(seconds)
    return self.process.poll() is None

  def kill(self) -> str:
    """Ends it at once; the phase that it was in."""
    self.process.send_signal(signal.SIGSTOP)  # the look and the kill are one
    phase = self.phase()
    self.process.kill()
    self.process.wait()
    return phase

  def lengths(self) -> dict[str, float]:
    """Lets it end; the mean seconds of a visit to each phase."""
    spent, visits = collections.Counter(), collections.Counter()
    phase, since = self.phase(), time.monotonic()
    while self.process.poll() is None:
      time.sleep(_POLL)
      now = self.phase()
      if now != phase:
        spent[phase] += time.monotonic() - since
        visits[phase] += 1
        phase, since = now, time.monotonic()
    return {p: spent[p] / visits[p] for p in spent}

  def _unfinished(self) -> dict[pathlib.Path, int]:
    """Checkpoints without their list, by inode."""
    found = {}
    for folder in self._folder.glob("checkpoints/*"):
      try:
        if not (folder / "files.json").exists():
          found[folder] = folder.stat().st_ino
      except FileNotFoundError:
        pass  # removed while we looked
    return found

  def _events(self) -> set[pathlib.Path]:
    """TensorBoard's files: a start opens one when it is ready to train."""
    return set(self._folder.glob("tensorboard/*"))

  def _is_preparing(self) -> bool:
    begun = any(self._cache.glob("documents/*"))
    done = [p for p in self._cache.glob("tokens/*") if not p.suffix]
    return begun and not done


def environment(
  cache: pathlib.Path, compiled: str | None = None
) -> dict[str, str]:
  """Of one device, with everything cached under one folder."""
  ours = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
  root = pathlib.Path(__file__).parent.parent
  return {k: v for k, v in os.environ.items() if k not in ours} | {
    "PYTHONPATH": str(root),
    "XDG_CACHE_HOME": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    **({"JAX_COMPILATION_CACHE_DIR": compiled} if compiled else {}),
  }


def main() -> int:
  """Exit code 0 where everything is the same."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=25)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--keep", help="a folder to work in, and leave")
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    home = pathlib.Path(given.keep or temporary)
    home.mkdir(parents=True, exist_ok=True)
    return kills(home, given.kills, random.Random(given.seed))


def kills(home: pathlib.Path, count: int, draw: random.Random) -> int:
  """Runs once without and then with kills, and compares."""
  module = "experiments.pretrain_tiny_stdlib"
  command = [sys.executable, "-m", module, "train", *FLAGS]
  log, cache = home / "log.txt", home / "cache"

  def start(folder: pathlib.Path) -> Start:
    return Start(command, folder, cache, log)

  print("uninterrupted run", flush=True)
  reference = home / "reference"
  lengths = start(reference).lengths()
  wanted = sameness.content(reference)
  for phase in PHASES:
    print(f"  {phase}: {lengths.get(phase, 0):.2f} s a visit")
  fallen, different, trial, killed = collections.Counter(), [], 0, 0
  folder = home / f"killed_{trial}"
  aims: list[str] = []
  while killed < count:
    if not aims:
      aims = draw.sample(PHASES, len(PHASES))  # each in turn
    aim = aims.pop()
    if aim == "data preparation":
      for part in ("documents", "tokens"):
        shutil.rmtree(cache / "llm_jax" / part, ignore_errors=True)
      if draw.random() < 0.4:
        shutil.rmtree(folder, ignore_errors=True)  # the tokenizer as well
    if aim == "compile":
      shutil.rmtree(cache / "llm_jax" / "compiled", ignore_errors=True)
    begun = time.monotonic()
    run = start(folder)
    steps = draw.randrange(24) if aim in ("step", "checkpoint write") else 0
    if run.wait_for(aim, draw.random() * lengths[aim], steps):
      killed += 1
      phase = run.kill()
      fallen[phase] += 1
      print(
        f"kill {killed:2}: {time.monotonic() - begun:5.1f} s after its start,"
        f" in {phase}, resumed after step {run.resumed()}, last row"
        f" {run.rows()}",
        flush=True,
      )
      continue
    if code := run.process.wait():
      print(log.read_text())
      print(f"the run ended with exit code {code}")
      return 1
    different += sameness.differences(wanted, sameness.content(folder))
    trial += 1
    folder = home / f"killed_{trial}"
    print("this run came to its end; another begins", flush=True)
  run = start(folder)
  code = run.process.wait()
  print(f"last start: resumed after step {run.resumed()}, exit code {code}")
  print(", ".join(f"{fallen[p]} in {p}" for p in PHASES))
  if not code:
    different += sameness.differences(wanted, sameness.content(folder))
  for line in different:
    print(f"DIFFERENT: {line}")
  if code or different:
    print(log.read_text())
    return 1
  rows = len(wanted["rows"])
  arrays = len([name for name in wanted if name.startswith("array ")])
  print(f"bitwise equal: {rows} rows, {arrays} arrays, tokenizer and samples")
  return 0


if __name__ == "__main__":
  sys.exit(main())
