"""Several processes on this machine, started again when one is lost."""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

from llm_jax.config import field

# Done; a bad flag or file; `plan` says it does not fit. Nothing is gained by
# another try.
_FINAL = (0, 2, 3)
_STOPPED = 128 + signal.SIGTERM
_DEVICES = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Local:
  """Processes of one job on this machine."""

  processes: int = field(1, "how many", low=1)
  devices: int = field(
    0,
    "CPU devices that each simulates; 0 = this machine's own: all of them for"
    " one process, one GPU, or --gpus, for each of several",
    low=0,
  )
  gpus: int = field(
    1, "of each of several processes, where the machine has GPUs", low=1
  )
  restart: int = field(
    0, "times that the job is started again, where it was lost", low=0
  )
  port: int = field(
    0, "where the first process is found; 0 = any free one", low=0, high=65535
  )
  grace: float = field(
    10.0, "seconds between SIGTERM and SIGKILL, where one has failed", low=0
  )


def arguments(
  settings: Local, command: Sequence[str], index: int, port: str
) -> list[str]:
  """The command line of one process, without Python's own."""
  if settings.processes == 1:
    return ["-m", *command]
  return [
    *("-m", *command),
    f"--coordinator=localhost:{port}",
    f"--num_processes={settings.processes}",
    f"--process_id={index}",
  ]


def environment(settings: Local, index: int) -> dict[str, str]:
  """What is set for one process beside what is set already."""
  if settings.devices:
    given = os.environ.get("XLA_FLAGS", "")
    others = [x for x in given.split() if not x.startswith(_DEVICES)]
    mine = " ".join([*others, f"{_DEVICES}={settings.devices}"])
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": mine}
  if (
    settings.processes > 1
  ):  # JAX counts those that CUDA_VISIBLE_DEVICES leaves
    first = index * settings.gpus
    ids = range(first, first + settings.gpus)
    return {"JAX_LOCAL_DEVICE_IDS": ",".join(map(str, ids))}
  return {}


def check(settings: Local) -> None:
  """ValueError where processes want other GPUs than there are."""
  given = f"--gpus={settings.gpus}"
  if settings.devices:
    if settings.gpus > 1:
      raise ValueError(f"{given}: is not read with --devices, which are CPUs")
    return
  if settings.processes == 1:
    if settings.gpus > 1:
      raise ValueError(f"{given}: is of several --processes; one has all GPUs")
    return
  there = _gpus()
  if not there and settings.gpus > 1:
    raise ValueError(f"{given}: nvidia-smi knows of no GPU here")
  if there and settings.processes * settings.gpus > there:
    raise ValueError(
      f"--processes={settings.processes} {given}: want"
      f" {settings.processes * settings.gpus} GPUs, this machine has {there}"
    )


def _gpus() -> int:
  """GPUs that JAX may see here; 0 where none is known."""
  seen = os.environ.get("CUDA_VISIBLE_DEVICES")
  if seen is not None:
    return len([x for x in seen.split(",") if x.strip() not in ("", "-1")])
  with contextlib.suppress(OSError, subprocess.SubprocessError):
    done = subprocess.run(
      ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30
    )
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
  return 0


class _Attempt:
  """One start of all processes."""

  def __init__(self, settings: Local, command: Sequence[str]):
    self._settings = settings
    port = str(settings.port or _free_port())
    several = settings.processes > 1
    pipe = subprocess.PIPE if several else None
    self._readers: list[threading.Thread] = []
    self.processes: list[subprocess.Popen[bytes]] = []
    for i in range(settings.processes):
      mine = arguments(settings, command, i, port)
      process = subprocess.Popen(
        [*_told_of_the_end(), *(sys.executable, *mine)],
        env=os.environ | environment(settings, i) | {"PYTHONUNBUFFERED": "1"},
        stdout=pipe,
        stderr=pipe,
        # A key pressed at the terminal is for the launcher, which passes it on.
        start_new_session=several,
      )
      self.processes.append(process)
      if several:
        assert process.stdout and process.stderr
        self._copy(i, process.stdout, sys.stdout)
        self._copy(i, process.stderr, sys.stderr)

  def _copy(self, index: int, lines: IO[bytes], out: IO[str]) -> None:
    def copy() -> None:
      for line in lines:
        text = line.decode(errors="replace").rstrip("\n")
        with contextlib.suppress(BrokenPipeError):
          out.write(f"[{index}] {text}\n")
          out.flush()

    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    self._readers.append(reader)

  def signal(self, number: int) -> None:
    """Sends a signal to those that still run."""
    for process in self.processes:
      if process.poll() is None:
        process.send_signal(number)

  def wait(self) -> tuple[int, int]:
    """(index, exit code) of the first that failed, or (0, 0); all have ended.

    A process that a signal ended has 128 + its number.
    """
    failed: tuple[int, int] | None = None
    end = 0.0
    while True:
      codes = [process.poll() for process in self.processes]
      bad = [(i, c) for i, c in enumerate(codes) if c]
      if bad and failed is None:
        i, code = bad[0]
        failed = i, code if code > 0 else 128 - code
        end = time.monotonic() + self._settings.grace
        if failed[1] != _STOPPED:  # then all have saved, and end by themselves
          self.signal(signal.SIGTERM)
      if None not in codes:
        break
      if failed is not None and time.monotonic() > end:
        self.kill()
      time.sleep(0.05)
    for reader in self._readers:  # what they wrote before they ended
      reader.join(timeout=5)
    return failed or (0, 0)

  def kill(self) -> None:
    """Ends those that still run, and what they started."""
    for process in self.processes:
      if process.poll() is None:
        if self._settings.processes > 1:
          os.killpg(process.pid, signal.SIGKILL)
        else:
          process.kill()


def run(settings: Local, command: Sequence[str]) -> int:
  """Runs a job until it is done or lost for good; its exit code.

  Where a process fails, all others are ended and the job is started again,
  at most `restart` times, with the same command, which resumes. SIGTERM and
  SIGINT are passed on, and then nothing is started again; told twice, it ends
  all at once.

  Args:
    settings: how many processes, and where.
    command: module and flags: "experiments.NAME", "train", ...
  """
  told: list[int] = []
  attempt: _Attempt | None = None

  def handle(number: int, frame: object) -> None:
    del frame
    told.append(number)
    if attempt is None:
      return
    if len(told) > 1:
      attempt.kill()
    elif settings.processes > 1 or number == signal.SIGTERM:
      attempt.signal(number)  # else the terminal has told it, too

  before = {
    n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    for again in range(settings.restart + 1):
      attempt = _Attempt(settings, command)
      try:
        index, code = attempt.wait()
      finally:
        attempt.kill()
      if told or code in _FINAL:
        return code
      left = settings.restart - again
      next_ = f"starting again, {left} left" if left else "giving up"
      which = f"process {index} of {settings.processes}"
      print(
        f"launch: {which} {_ended(code)}; {next_}", file=sys.stderr, flush=True
      )
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return code


def _told_of_the_end() -> list[str]:
  """What has a process told by SIGTERM where the launcher is killed.

  prctl(2), PR_SET_PDEATHSIG, which execve keeps; elsewhere they go on alone.
  """
  found = shutil.which("setpriv") if sys.platform == "linux" else None
  return [found, "--pdeathsig", "TERM"] if found else []


def _ended(code: int) -> str:
  if code <= 128:
    return f"failed with exit code {code}"
  try:
    return f"was ended by {signal.Signals(code - 128).name}"
  except ValueError:
    return f"failed with exit code {code}"


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


_ONE = """\
(
for left in $(seq {restart} -1 0); do
  {command}
  code=$?
  case $code in 0|2|3|130) break ;; esac
  echo "launch: exit code $code, tries left: $left" >&2
done
exit "$code"
)
"""
_SEVERAL = """\
(
trap 'kill -TERM "${{pids[@]}}"; wait; exit 143' INT TERM
for left in $(seq {restart} -1 0); do
  port={port}
  pids=()
  for i in $(seq 0 {last}); do
    {command} &
    pids+=($!)
  done
  code=0  # of the first that fails
  while [ "$code" = 0 ] && [ "${{#pids[@]}}" -gt 0 ]; do
    for i in "${{!pids[@]}}"; do
      kill -0 "${{pids[i]}}" 2>/dev/null && continue
      wait "${{pids[i]}}" || code=$?
      unset "pids[i]"
      [ "$code" = 0 ] || break
    done
    sleep 0.2
  done
  if [ "$code" != 0 ]; then
    [ "$code" = 143 ] || kill -TERM "${{pids[@]}}" 2>/dev/null
    (sleep {grace:g}; kill -KILL "${{pids[@]}}") 2>/dev/null &
    wait "${{pids[@]}}"
    kill $! 2>/dev/null
    wait
  fi
  case $code in 0|2|3) break ;; esac
  echo "launch: exit code $code, tries left: $left" >&2
done
exit "$code"
)
"""
_ANY_PORT = (
  "$(python -c 'import socket; s = socket.socket();"
  ' s.bind(("localhost", 0)); print(s.getsockname()[1])\')'
)


def render(settings: Local, command: Sequence[str]) -> str:
  """The same as text for bash; `run` also numbers the lines they write."""
  index = 10**9 + 7  # no flag has it
  variables = environment(settings, index)
  if settings.gpus > 1 and "JAX_LOCAL_DEVICE_IDS" in variables:
    variables["JAX_LOCAL_DEVICE_IDS"] = "$ids"
  words = [
    *(f"{k}={v}" for k, v in variables.items()),
    *("python", *arguments(settings, command, index, "$port")),
  ]
  line = " ".join(
    word if "$port" in word or "$ids" in word else shlex.quote(word)
    for word in words
  )
  line = line.replace(str(index), '"$i"').replace("$port", '"$port"')
  g = settings.gpus
  ids = f'"$(seq -s, $((i * {g})) $((i * {g} + {g - 1})))"'
  line = line.replace("=$ids", f"={ids}")
  if settings.processes == 1 and not settings.restart:
    return f"{line}\n"
  return (_SEVERAL if settings.processes > 1 else _ONE).format(
    last=settings.processes - 1,
    restart=settings.restart,
    grace=settings.grace,
    port=settings.port or _ANY_PORT,
    command=line,
  )
