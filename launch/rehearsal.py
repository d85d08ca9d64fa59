"""The experiment reads its flags here, before machines are paid for."""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys

from launch import accelerators
from launch.settings import Settings


def there(settings: Settings, target: str) -> str:
  """Devices that a target has, as an experiment's --check is told them."""
  if target == "local":
    each = settings.devices
    return str(settings.processes * each) if settings.processes > 1 else "0"
  if target == "slurm":
    return str(settings.nodes * settings.gpus_per_node)
  slices = settings.slices if target != "tpu-vm" else 1
  return f"{slices}x{accelerators.of(settings.topology).devices}"


def hold(words: Sequence[str], devices: str, root: pathlib.Path) -> None:
  """ValueError where the experiment would not take the command line.

  It is asked in a process of its own: a launch knows experiments by name only.

  Args:
    words: module, verb and flags, as the machines are given them.
    devices: see `there`.
    root: of the repository.
  """
  done = subprocess.run(
    [sys.executable, "-m", *words, f"--check={devices}"],
    cwd=root,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": _path(root)},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    errors="replace",
    check=False,
  )
  if not done.returncode:
    return
  lines = done.stderr.split("\n")
  line = next((x for x in reversed(lines) if x.strip()), "without a word")
  if line.startswith("error: "):
    raise ValueError(line.removeprefix("error: "))
  raise ValueError(f"{words[0]}: does not begin here, either: {line}")


def _path(root: pathlib.Path) -> str:
  before = os.environ.get("PYTHONPATH")
  return os.pathsep.join([str(root), before] if before else [str(root)])
