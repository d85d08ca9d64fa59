"""Several processes become one job, and leave it."""

from collections.abc import Mapping
import contextlib
import hashlib
from importlib import metadata
import os
import pathlib
import platform
import re
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax

from llm_jax import config, rollcall
from llm_jax.experiment import Experiment

# That differ between hosts and may.
_OWN = ("data.cache",)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64")
# The runtime's errors begin with one of absl's codes, whatever their class.
_CODE = re.compile(r"[A-Z]+(_[A-Z]+)*: ")
_NETWORK = re.compile(
  r"gloo|nccl|connection|socket|coordination|heartbeat", re.I
)
_HELD = re.compile(r"in use|busy|unavailable|out.of.memory|ABORTED", re.I)
_GOODBYE = 5.0  # seconds that the others have to fail of the same
_joined: list[rollcall.Place] = []  # this process's place, once it has one


def about(
  experiment: Experiment, verb: str, others: Mapping[str, Any]
) -> dict[str, Any]:
  """All that must be the same in all processes, by names for people.

  Args:
    experiment: resolved.
    verb: of the command line.
    others: flags that are no settings.
  """
  settings = {
    f"--{leaf.name}": leaf.value
    for leaf in config.leaves(experiment)
    if leaf.name not in _OWN
  }
  return (
    {"verb": verb}
    | settings
    | {f"--{name}": value for name, value in others.items()}
    | {"python": platform.python_version()}
    | {package: _version(package) for package in _PACKAGES}
    | {name: os.environ.get(name) for name in _VARIABLES}
    | _code()
  )


def _version(package: str) -> str | None:
  with contextlib.suppress(metadata.PackageNotFoundError):
    return metadata.version(package)
  return None


def _code() -> dict[str, str]:
  """A digest of each file of the package, and of the main program."""
  home = pathlib.Path(__file__).parent
  files = {f"{home.name}/{p.relative_to(home)}": p for p in home.rglob("*.py")}
  main = getattr(sys.modules["__main__"], "__file__", None)
  if main is not None:
    files[pathlib.Path(main).name] = pathlib.Path(main)
  return {
    name: hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()
    for name, path in sorted(files.items())
  }


def join(
  place: rollcall.Place | None, runs: Mapping[str, Any], timeout: float
) -> None:
  """Makes one job of all processes; returns once they are there and agree.

  Args:
    place: of this process; None = where JAX finds itself, in a cluster.
    runs: see `about`.
    timeout: seconds to wait for the others.

  Raises:
    ValueError: they are not there in time, or differ, or this is no cluster.
  """
  devices = None
  if place is None:
    place, devices = _found(timeout)
  tell = lambda line: print(line, file=sys.stderr, flush=True)
  rollcall.attend(place, runs, timeout, tell)
  _joined.append(place)
  jax.distributed.initialize(
    *place, local_device_ids=devices, initialization_timeout=int(timeout) + 1
  )


def _found(timeout: float) -> tuple[rollcall.Place, Any]:
  """Where JAX finds this process, and its devices; ValueError if it does not.

  JAX has no public way to ask this without joining at once.
  """
  from jax._src import clusters  # noqa: PLC0415

  address, count, index, devices = (
    clusters.ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, int(timeout) + 1
    )
  )
  if address is None or count is None or index is None:
    raise ValueError(
      "--distributed: JAX finds no cluster here (a TPU pod, Slurm's srun,"
      " mpirun or Kubernetes); elsewhere give --coordinator, --num_processes"
      " and --process_id"
    )
  return rollcall.Place(address, count, index), devices


def start_devices() -> None:
  """Takes the devices; ValueError, in a line, where they cannot be had.

  A TPU serves one process at a time: one of an earlier run keeps it.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as e:  # JAX asserts that there is one
    platforms = os.environ.get("JAX_PLATFORMS")
    said = str(e).strip() or f"JAX_PLATFORMS={platforms}: there is none here"
    if str(e) and "backend" not in said:
      raise
    hint = ""
    if holder := re.search(r"in use by process with pid (\d+)", said):
      hint = f"; end that process: `ps -fp {holder[1]}` shows it"
    elif _HELD.search(said):
      hint = "; another process may hold them: `nvidia-smi`, or `sudo lsof -w"
      hint += " /dev/accel* /dev/vfio/*`, lists it"
    raise ValueError(
      f"the devices of {socket.gethostname()} cannot be had:"
      f" {said.splitlines()[0]}{hint}"
    ) from e


def is_of_runtime(error: BaseException) -> bool:
  """Whether the runtime failed in a job of several processes, and no flag."""
  several = bool(_joined) and _joined[-1].processes > 1
  return several and bool(_CODE.match(str(error).strip()))


def is_lost(error: BaseException) -> bool:
  """Whether an error says that another process of the job failed."""
  return is_of_runtime(error) and bool(_NETWORK.search(str(error)))


def leave(code: int) -> NoReturn:
  """Ends this process; one that failed does not wait for the others long.

  JAX lets a process wait for all others at its end, and one that failed would
  wait for those that wait for it. Where the first ends, JAX aborts the others:
  it goes last.
  """
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):  # who read it is gone
      stream.flush()
  if code in (0, 143) or not _joined:
    sys.exit(code)
  end = threading.Thread(target=jax.distributed.shutdown, daemon=True)
  if code == 2:  # a flag or a file: most likely all found the same
    end.start()
    end.join(_GOODBYE)
  if _joined[-1].process == 0 and (code != 2 or end.is_alive()):
    time.sleep(1)
  os._exit(code)
