"""What is written and shown while a run trains."""

from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any

import jax

from llm_jax import storage
from llm_jax.contracts import Evaluator, Hook
from llm_jax.reporting import files
from llm_jax.reporting.progress import say, TrainingBar
from llm_jax.reporting.throughput import Meter, mfu
from llm_jax.spool import Spool

_ROWS = "metrics.jsonl"


class Metrics(Hook):
  """Rows of metrics.jsonl and TensorBoard, and the training bar."""

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    every: int,
    done: int,
    until: int,
    learning_rate: Any,
    flops_per_token: float,
    devices: int,
    tensorboard: bool,
  ):
    self._every, self._until = every, until
    self._rate, self._flops = learning_rate, flops_per_token
    self._devices = devices
    self._meter = Meter()
    self._main = jax.process_index() == 0
    self._spool = Spool(folder, (_ROWS,) if self._main else ())
    self._rows = files.Rows(self._spool.folder / _ROWS)
    self._board = None
    if self._main:
      self._rows.keep_until(done)
    if self._main and tensorboard:
      import tensorboardX  # noqa: PLC0415  (slow to import)

      self._board = tensorboardX.SummaryWriter(
        str(self._spool.folder / "tensorboard"), purge_step=done + 1
      )
    self._bar = TrainingBar(done, until)

  def read(self, step: int, numbers: dict[str, float]) -> None:
    tokens = numbers.get("tokens", 0)
    self._meter.tick(tokens)
    speed = self._meter.tokens_per_second
    kind = jax.devices()[0].device_kind
    share = mfu(speed, self._flops, kind, self._devices)
    self._bar.step(numbers["loss"], speed, share)
    if step % self._every and step not in (1, self._until):
      return
    updates = step - 1 - int(numbers.get("skipped", 0))
    self.write(
      step,
      "train",
      numbers
      | {"learning_rate": float(self._rate(updates))}
      | {"tokens_per_second": speed, "mfu": share},
    )

  def write(self, step: int, split: str, numbers: dict[str, Any]) -> None:
    """One row."""
    if not self._main:
      return
    self._rows.append({"step": step, "split": split} | numbers)
    if self._board is not None:
      for name, value in numbers.items():
        if value is not None:
          self._board.add_scalar(f"{split}/{name}", value, step)
    if self._spool.is_due:
      try:
        self.send()
      except Exception as e:  # of many kinds; the next sending has it all
        say(f"metrics not sent yet: {storage.reason(e)}")

  def send(self) -> None:
    """All rows until now are where the run's folder is."""
    if self._board is not None:
      self._board.flush()
    self._spool.send()

  @contextlib.contextmanager
  def during(self, what: str) -> Iterator[None]:
    """Not training: the bar says what it is, and no speed counts it."""
    with self._bar.doing(what):
      yield
    self._meter.pause()

  def close(self, *exception: object) -> None:
    """Finishes the bar and the files."""
    self._bar.close(*exception)
    if self._board is not None:
      self._board.close()
    try:
      self._spool.send()
    except Exception as e:
      if not any(exception):
        raise
      say(f"metrics not sent: {storage.reason(e)}")


class Validate(Hook):
  """Measures the state every so often, and writes a row."""

  def __init__(
    self, metrics: Metrics, evaluator: Evaluator, every: int, until: int
  ):
    self._metrics, self._evaluator = metrics, evaluator
    self._every, self._until = every, until
    self._last: tuple[int, float] | None = None

  def due(self, step: int) -> bool:
    return bool(self._every) and (
      step % self._every == 0 or step == self._until
    )

  def act(self, step: int, state: Any) -> None:
    with self._metrics.during("validating"):
      numbers = self._evaluator(state.averaged)
    self._last = step, numbers["loss"]
    self._metrics.write(step, "validation", numbers)

  def at(self, step: int) -> float | None:
    """The loss measured at this step; None where it was not."""
    return self._last[1] if self._last and self._last[0] == step else None


class Sample(Hook):
  """Writes what the model says every so often."""

  def __init__(
    self,
    metrics: Metrics,
    folder: pathlib.Path,
    generate: Any,
    every: int,
    until: int,
  ):
    self._metrics, self._folder, self._generate = metrics, folder, generate
    self._every, self._until = every, until

  def due(self, step: int) -> bool:
    return bool(self._every) and (
      step % self._every == 0 or step == self._until
    )

  def act(self, step: int, state: Any) -> None:
    with self._metrics.during("sampling"):
      samples = self._generate(state.averaged["policy"])
    if jax.process_index() == 0:
      files.write_json(
        self._folder / "samples" / f"step_{step:08d}.json",
        {"step": step, "samples": samples},
      )


class Profile(Hook):
  """Traces the steps named, for TensorBoard's profiler."""

  def __init__(self, folder: pathlib.Path, first: int, count: int):
    self._spool, self._first = Spool(folder), max(first, 2) if first else 0
    self._last = self._first + count - 1
    self._on = False

  def due(self, step: int) -> bool:
    return bool(self._first) and step in (self._first - 1, self._last)

  def act(self, step: int, state: Any) -> None:
    if step == self._first - 1:
      jax.profiler.start_trace(str(self._spool.folder / "profile"))
      self._on = True
    elif self._on:
      jax.block_until_ready(state)
      self.close()

  def close(self, *exception: object) -> None:
    """Writes the trace, be it shorter than asked for."""
    del exception
    if self._on:
      jax.profiler.stop_trace()
      self._on = False
      self._spool.send()
