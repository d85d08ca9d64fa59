"""Something moves during every wait: a bar on a terminal, lines elsewhere."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import sys
import threading
import time
from typing import Any

import jax
from rich import progress as bars
from rich.console import Console
from rich.table import Column

QUIET = 10.0  # seconds between lines where there is no terminal


class _Console(Console):
  """Who does not listen any more must not cost what is still to be saved."""

  def on_broken_pipe(self) -> None:
    self.quiet = True  # Rich would end the program


_console = _Console(stderr=True)


_listeners: list[Callable[[str], None]] = []


@contextlib.contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
  """Meanwhile `listener` is told the label of whatever begins or advances."""
  _listeners.append(listener)
  try:
    yield
  finally:
    _listeners.remove(listener)


def say(line: str) -> None:
  """One line for people, on stderr, from the first process."""
  if jax.process_index() == 0:
    with contextlib.suppress(OSError):  # nobody listens
      _console.print(line, markup=False, highlight=False, soft_wrap=True)


def progress(
  items: Iterable[Any], total: int | None = None, label: str = ""
) -> Iterator[Any]:
  """The same items, with a bar."""
  with _Bar(label, total) as bar:
    for item in items:
      yield item
      bar.advance(1)


@contextlib.contextmanager
def waiting(label: str) -> Iterator[None]:
  """A wait of unknown length, such as compiling."""
  with _Bar(label, None):
    yield


class _Bar:
  """Rich's bar on a terminal; elsewhere a line now and then."""

  def __init__(self, label: str, total: int | None, done: float = 0):
    self._label, self._total, self._done = label, total, done
    self.note = ""
    self._start = self._said = time.monotonic()
    self._hidden = jax.process_index() != 0
    self._rich: bars.Progress | None = None
    self._over = threading.Event()

  def __enter__(self) -> "_Bar":
    self._moved()
    if self._hidden:
      return self
    if _console.is_terminal:
      # One time only: 80 columns hold no more beside a loss and a speed. Where
      # room is short, the bar gives way.
      whole = Column(no_wrap=True)
      columns: list[Any] = [
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(None, table_column=Column(max_width=40)),
        bars.TextColumn("{task.fields[count]}"),
        bars.TextColumn("{task.fields[note]}"),
      ]
      columns += (
        [bars.TimeRemainingColumn(table_column=whole), bars.TextColumn("left")]
        if self._total
        else [bars.TimeElapsedColumn(table_column=whole)]
      )
      self._rich = bars.Progress(
        *columns, console=_console, transient=True, refresh_per_second=5
      )
      self._rich.start()
      self._task = self._rich.add_task(
        self._label,
        total=self._total,
        completed=int(self._done),
        count=self._count(),
        note=self.note,
      )
    else:
      self._beat = threading.Thread(target=self._lines, name="bar", daemon=True)
      self._beat.start()
    return self

  def advance(self, by: float) -> None:
    """So much more is done."""
    self._done += by
    self._moved()
    if self._rich is not None:
      self._rich.update(
        self._task, advance=by, count=self._count(), note=self.note
      )

  def _moved(self) -> None:
    for listener in _listeners:
      listener(self._label)

  def relabel(self, label: str) -> None:
    """What is waited for has changed."""
    self._label = label
    if self._rich is not None:
      self._rich.update(self._task, description=label)

  def _count(self) -> str:
    """How much is done, of how much; nothing where neither is known."""
    if self._total:
      return f"{self._done:.0f}/{self._total}"
    return f"{self._done:,.0f}" if self._done else ""

  def __exit__(self, *exception: object) -> None:
    self._over.set()
    if self._rich is not None:
      self._rich.stop()
    if exception[0] is None and not self._hidden:
      took = time.monotonic() - self._start
      if took > 1:
        say(f"{self._label}: {took:.1f} s")

  def _lines(self) -> None:
    wait = 3.0
    while not self._over.wait(wait):
      wait = QUIET
      took = time.monotonic() - self._start
      words = (f"{self._label}:", self._count(), self.note)
      line = " ".join(w for w in words if w)
      with contextlib.suppress(OSError):
        print(f"{line} ({took:.0f} s so far)", file=sys.stderr, flush=True)


class TrainingBar:
  """Steps, loss, tokens a second, MFU and time left."""

  def __init__(self, done: int, until: int):
    # The first step is compiled before it is done.
    self._bar = _Bar("compiling", until, done=done)
    self._bar.__enter__()

  def step(
    self, loss: float, tokens_per_second: float, mfu: float | None
  ) -> None:
    """One more step is done."""
    share = "unknown" if mfu is None else f"{mfu:.1%}"
    self._bar.note = (
      f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  MFU {share}"
    )
    self._bar.relabel("training")
    self._bar.advance(1)

  @contextlib.contextmanager
  def doing(self, what: str) -> Iterator[None]:
    """Says what keeps the steps waiting, such as a validation."""
    self._bar.relabel(what)
    yield
    self._bar.relabel("training")

  def close(self, *exception: object) -> None:
    """Takes the bar away."""
    self._bar.relabel("training")
    self._bar.__exit__(*(exception or (None,)))
