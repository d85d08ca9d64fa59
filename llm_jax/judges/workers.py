"""Calls made by some threads at a time, of which none holds the program up."""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import queue
import threading
from typing import Any


class LateError(Exception):
  """A call that has not ended in time."""


class Result:
  """What a call will give; its time runs from when it begins.

  Args:
    replace: starts another thread in the place of one that is late.
  """

  def __init__(self, replace: Callable[[], None]):
    self._replace = replace
    self._begun = threading.Event()
    self._future: futures.Future[Any] = futures.Future()

  def make(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Makes the call, once."""
    self._begun.set()
    try:
      self._future.set_result(call(*args))
    except BaseException as e:
      self._future.set_exception(e)

  def wait(self, limit: float) -> Any:
    """What the call gave, or raises what it raised.

    Raises:
      LateError: it took longer than `limit` seconds.
    """
    self._begun.wait()
    if not futures.wait([self._future], limit).done:
      self._replace()
      raise LateError
    return self._future.result()


@contextlib.contextmanager
def workers(count: int) -> Iterator[Callable[..., Result]]:
  """Gives what submits calls, (call, *args), to so many threads.

  A call that does not end keeps its thread: another one takes its place.
  """
  todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
  closed = threading.Event()

  def work() -> None:
    while (item := todo.get()) is not None and not closed.is_set():
      result, call, args = item
      result.make(call, args)

  def start() -> None:
    threading.Thread(target=work, daemon=True).start()

  def submit(call: Callable[..., Any], *args: Any) -> Result:
    result = Result(start)
    todo.put((result, call, args))
    return result

  for _ in range(count):
    start()
  try:
    yield submit
  finally:
    closed.set()
    for _ in range(count):
      todo.put(None)
