"""Training steps beside PyTorch's, on one machine, in one run.

  python -m benchmarks.pretrain --torch_python=PATH [--shapes=nano,25m]
      [--rounds=5] [--cores=1]

PATH is an interpreter that has torch and transformers; without it only llm_jax
is timed. Sides take turns, each time in a new process on the same cores; the
table shows medians over the rounds. Processor time is the one to compare on a
machine that does other things too. `compile` is the time from traced to ready
with an empty cache of compiled programs, `warm` with a full one.
"""

from collections.abc import Sequence
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags

_TORCH = flags.DEFINE_string("torch_python", None, "interpreter with torch")
_SHAPES = flags.DEFINE_list("shapes", ["nano", "25m"], "of benchmarks/shapes")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "turns of each side", 1)
_CORES = flags.DEFINE_integer("cores", 1, "cores that a side may use", 1)

# About ten seconds a turn on one core.
_STEPS = {"nano": 100, "25m": 2, "head": 1, "gpt2_124m": 30}
_ROOT = pathlib.Path(__file__).parents[1]


def main(argv: Sequence[str]) -> None:
  """Prints a table for each shape."""
  del argv
  print(f"{_processor()}, {_CORES.value} core(s), {platform.system()}")
  for shape in _SHAPES.value:
    _compare(shape)


def _compare(shape: str) -> None:
  sides = ["llm_jax"]
  if _TORCH.value:
    sides = ["torch", "transformers", "llm_jax"]
  turns: dict[str, list[dict]] = {side: [] for side in sides}
  with tempfile.TemporaryDirectory() as compiled:
    for i in range(_ROUNDS.value):
      for side in sides:
        turns[side].append(_turn(side, shape, compiled))
        print(
          f"{shape} {i + 1}/{_ROUNDS.value} {side}:"
          f" {turns[side][-1]['cpu_ms']:.1f} ms",
          file=sys.stderr,
        )
  header = ("cpu ms", "wall ms", "ratio", "compile", "warm", "peak MiB")
  print(f"\n{shape}, {_STEPS[shape]} steps a turn, {_ROUNDS.value} turns each")
  print(f"{'':<14}" + "".join(f"{h:>10}" for h in header))
  for side, found in turns.items():
    middle = lambda key, found=found: statistics.median(x[key] for x in found)
    base = statistics.median(x["cpu_ms"] for x in turns[sides[0]])
    starts = [x["first_s"] for x in found]
    ours = side == "llm_jax"
    cells = (
      f"{middle('cpu_ms'):.1f}",
      f"{middle('wall_ms'):.1f}",
      f"{base / middle('cpu_ms'):.2f}x",
      f"{starts[0]:.1f} s" if ours else "",
      f"{statistics.median(starts[1:]):.1f} s" if ours and starts[1:] else "",
      f"{middle('peak_mib'):.0f}",
    )
    print(f"{side:<14}" + "".join(f"{c:>10}" for c in cells))
  last = turns["llm_jax"][-1]
  print(
    f"{last['parameters']:,} parameters; temporaries of the compiled step:"
    f" {last['temp_mib']:.0f} MiB; "
    + ", ".join(sorted({x[0]["version"] for x in turns.values()}))
  )


def _turn(side: str, shape: str, compiled: str) -> dict:
  cores = sorted(os.sched_getaffinity(0))[-_CORES.value :]
  steps = str(_STEPS[shape])
  environment = os.environ | {
    "OMP_NUM_THREADS": str(len(cores)),
    "PYTHONPATH": str(_ROOT),
    "JAX_COMPILATION_CACHE_DIR": compiled,
  }
  if side == "llm_jax":
    command = [sys.executable, "-m", "benchmarks.jax_side", shape, steps]
  else:
    module = "benchmarks.torch_side"
    command = [_TORCH.value, "-m", module, side, shape, steps]
  done = subprocess.run(
    command,
    env=environment,
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
    preexec_fn=lambda: os.sched_setaffinity(0, cores),
  )
  if done.returncode:
    raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
  return json.loads(done.stdout.splitlines()[-1])


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next(
    (x.split(":")[1].strip() for x in lines if x.startswith("model name")),
    platform.machine(),
  )


if __name__ == "__main__":
  app.run(main)
