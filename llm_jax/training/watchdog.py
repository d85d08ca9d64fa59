"""A step that does not end is noticed, and the process that holds it up named.

Where one process of a job stalls, all others wait for it, in the runtime and
without a word. So each writes how far it is, and each that has waited too long
reads what the others wrote, tells who is behind and what everyone was doing,
and ends, so that the job can be started again.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import faulthandler
import os
import pathlib
import socket
import sys
import tempfile
import threading
import time
from typing import Any

from llm_jax.config import field

# What the loop tells, for people; what a step is made of.
_WORDS = {
  "start": "starting",
  "stop": "agreeing whether to stop",
  "batch": "waiting for a batch",
  "step": "at work",
  "numbers": "waiting for its numbers",
}


@dataclasses.dataclass(frozen=True)
class Watchdog:
  """How long a run may seem to do nothing before it is ended."""

  seconds: float = field(
    1800.0,
    "seconds a step may take; then the stalled process is named, where each"
    " thread stands is written down, and the exit code is 1; 0 = any",
    low=0,
  )
  around: float = field(
    7200.0,
    "likewise of the first step, which is compiled, and of what lies between"
    " steps: validation, samples, a save, drawing; before them, and in"
    " `evaluate`, while nothing moves on; 0 = any",
    low=0,
  )


class Watch:
  """Threads beside training: one tells how far it is, one minds the time.

  Args:
    settings: how long is too long.
    process: (this one, how many).
    job: a word of which all processes of this start know, and no others.
    folder: where all processes write.
    write: (path, JSON value), in one go.
    read: path -> JSON value, None where there is none.
    slow: what else, told to `beat`, may take as long as what lies between.
  """

  def __init__(
    self,
    settings: Watchdog,
    process: tuple[int, int],
    job: str,
    folder: pathlib.Path,
    write: Callable[[pathlib.Path, Any], None],
    read: Callable[[pathlib.Path], Any],
    slow: tuple[str, ...] = (),
  ):
    self._settings, self._process, self._job = settings, process, job
    self._folder, self._write, self._read = folder, write, read
    self._quick = _WORDS.keys() - {"start", *slow}
    self._about = {"process": process[0], "host": socket.gethostname()}
    self._about |= {"pid": os.getpid(), "job": job}
    limits = [x for x in (settings.seconds, settings.around) if x]
    self._period = min(10.0, max(0.05, min(limits, default=0) / 20))
    self._count, self._said = 0, 0
    self._first: int | None = None
    self._now = (0, "start", False, time.monotonic())
    self._over = threading.Event()
    self._threads = [
      threading.Thread(target=self._mind, name="watchdog", daemon=True),
      threading.Thread(target=self._tell, name="heartbeat", daemon=True),
    ]
    if limits:
      for thread in self._threads[: process[1]]:
        thread.start()

  def beat(self, step: int, doing: str) -> None:
    """Something begins; what was before has ended."""
    self._count += 1  # as many in all processes that are at the same place
    self._first = step if self._first is None else self._first
    is_quick = doing in self._quick and step > self._first + 1
    self._now = step, doing, is_quick, time.monotonic()

  def moves(self, doing: str) -> None:
    """Something goes on that is no step, and comes before them."""
    if self._first is None:
      self._now = 0, doing, False, time.monotonic()

  def close(self) -> None:
    """Nothing is minded any more."""
    if not self._over.is_set():
      self._over.set()
      if self._threads[1].ident is not None:  # there are others to be told
        self._note(left=True)

  def lost(self) -> str:
    """Who does not write any more, in a line; "" if nobody or unknown.

    To be asked where the runtime says that it lost someone.
    """
    silent = self._within(10, lambda: self._silent(self._all()))
    return "; ".join(_is(its) for its in silent or [])

  def _tell(self) -> None:
    while not self._over.wait(self._period):
      self._note()

  def _note(self, left: bool = False) -> None:
    step, doing, _, since = self._now
    self._said += 1
    facts = {"step": step, "doing": doing, "count": self._count}
    facts |= {"seconds": round(time.monotonic() - since, 1), "left": left}
    with contextlib.suppress(OSError):  # a full disk is told by others
      self._write(
        self._path(self._process[0]), self._about | facts | {"said": self._said}
      )

  def _path(self, process: int) -> pathlib.Path:
    return self._folder / "heartbeats" / f"{process:05d}.json"

  def _mind(self) -> None:
    tick = time.monotonic()
    forgiven = 0.0
    while not self._over.wait(self._period):
      before, tick = tick, time.monotonic()
      step, doing, is_quick, since = self._now
      # Who was stopped as a whole, by ^Z say, has not stalled.
      if tick - before > 10 * self._period:
        forgiven = tick
      name = "seconds" if is_quick else "around"
      limit = getattr(self._settings, name)
      taken = tick - max(since, forgiven)
      if limit and taken > limit:
        allowed = f"--watchdog.{name}={limit:g} allows no more"
        self._end(step, doing, f"{taken:.0f} s; {allowed}")

  def _end(self, step: int, doing: str, taken: str) -> None:
    who = f"process {self._process[0]} ({self._about['host']})"
    lines = [f"watchdog: {who} has been {_at(step, doing)}, for {taken}"]
    if self._process[1] > 1:
      found = self._within(10 + 4 * self._period, self._blame)
      lines.append(f"watchdog: {found or 'the run folder does not answer'}")
    with tempfile.TemporaryFile("w+") as dump:
      faulthandler.dump_traceback(dump, all_threads=True)
      dump.seek(0)
      stack = dump.read()
    sys.stderr.write("\n".join([stack, *lines, ""]))
    sys.stderr.flush()
    report = self._folder / "stalled" / f"step_{step:08d}_{who.split()[1]}.json"
    self._within(
      10,
      lambda: self._write(report, {"said": lines, "stack": stack.split("\n")}),
    )
    self._over.wait(min(5, 4 * self._period))  # let the others read it, too
    os._exit(1)

  def _within(self, seconds: float, act: Callable[[], Any]) -> Any:
    """What it gives; None if that takes too long, as on a lost file system."""
    found: list[Any] = []

    def go() -> None:
      with contextlib.suppress(OSError, ValueError):
        found.append(act())

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None

  def _all(self) -> list[dict[str, Any]]:
    """What each process wrote last, if it was in this start of the job."""
    found = []
    for i in range(self._process[1]):
      its = self._read(self._path(i)) or {}
      none = {"process": i, "host": "?", "count": -1, "said": -1}
      found.append(its if its.get("job") == self._job else none)
    return found

  def _silent(self, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    time.sleep(3 * self._period)
    return [
      now
      for was, now in zip(before, self._all(), strict=True)
      if was["said"] == now["said"]
      and not now.get("left")
      and now["process"] != self._process[0]
    ]

  def _blame(self) -> str:
    """Who holds the others up, in a line."""
    everyone = self._all()
    if silent := self._silent(everyone):
      return f"no sign of life from {'; '.join(map(_is, silent))}"
    least = min(its["count"] for its in everyone)
    behind = [its for its in everyone if its["count"] == least]
    if len(behind) < len(everyone):
      return f"all others wait for {'; '.join(map(_is, behind))}"
    if len({its.get("doing") for its in everyone}) > 1:  # before all steps
      return f"none is behind: {'; '.join(map(_is, everyone[:8]))}"
    return "all processes are at the same place; a device may have stalled"


def _is(its: dict[str, Any]) -> str:
  """A process and where it was last."""
  who = f"process {its['process']} ({its['host']})"
  if its["count"] < 0:
    return f"{who}, which wrote nothing yet"
  return f"{who}, {_at(its['step'], its['doing'])}"


def _at(step: int, doing: str) -> str:
  """A place, for people; step 0 is before all steps."""
  doing = _WORDS.get(doing, doing)
  return f"in step {step}, {doing}" if step else f"busy with: {doing}"
