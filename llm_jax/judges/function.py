"""A Python function of one's own as a judge."""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import importlib.util
import itertools
import math
import numbers
import pathlib
import queue
import threading
from typing import Any
import zlib

from llm_jax.config import field
from llm_jax.contracts import Question, Verdict


@dataclasses.dataclass(frozen=True)
class Function:
  """A function (prompt, completion, reference) -> score, on strings.

  `reference` is None where no answer is known to be right. The file is run as
  it stands: name only what you trust.
  """

  path: str = field("", "FILE.py:NAME of the function; the file is run")
  concurrency: int = field(4, "completions scored at a time", low=1)
  timeout: float = field(
    30.0, "seconds that the score of one completion may take", low=0.001
  )
  failed: float | None = field(
    None,
    "score where the function raises, takes too long or gives no finite number;"
    " none = the run stops",
  )

  def __post_init__(self) -> None:
    if self.failed is not None and not math.isfinite(self.failed):
      raise ValueError(f"--judge.failed={self.failed}: must be a finite number")


class ByFunction:
  """The judge of a function.

  Raises:
    ValueError: there is no such file, or no such function in it.
  """

  def __init__(self, settings: Function):
    self._settings = settings
    self._call = _find(settings.path)
    file, _, name = settings.path.rpartition(":")
    code = pathlib.Path(file).expanduser().read_bytes()
    # Whatever decides a score, wherever the file is.
    self.about: dict[str, Any] = {
      "function": name,
      "code": zlib.crc32(code),
      "failed": settings.failed,
    }

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question.

    Raises:
      ValueError: a score failed, and `failed` says nothing.
    """
    asked = [(q, c) for q in questions for c in q.completions]
    with _workers(self._settings.concurrency) as submit:
      found = iter([submit(self._one, q, c) for q, c in asked])
      for question in questions:
        here = itertools.islice(found, len(question.completions))
        yield Verdict(tuple(self._score(f) for f in here))

  def _one(self, question: Question, completion: str) -> Any:
    prompt = "\n".join(content for _, content in question.messages)
    return self._call(prompt, completion, question.reference)

  def _score(self, found: "_Found") -> float:
    limit = self._settings.timeout
    try:
      score = found.wait(limit)
      if isinstance(score, bool) or not isinstance(score, numbers.Real):
        problem = f"gave {score!r:.40}, no number"
      elif not math.isfinite(score):
        problem = f"gave {score}"
      else:
        return float(score)
    except _LateError:
      problem = f"took longer than --judge.timeout={limit}"
    except (Exception, SystemExit) as e:
      problem = f"raised {type(e).__name__}: {e}"
    if self._settings.failed is None:
      raise ValueError(
        f"--judge.path={self._settings.path}: {problem}; --judge.failed=0, say,"
        " would be its score"
      )
    return self._settings.failed


class _LateError(Exception):
  """A call that has not ended in time."""


class _Found:
  """What a call will give; its time runs from when it begins."""

  def __init__(self) -> None:
    self.begun = threading.Event()
    self.result: futures.Future[Any] = futures.Future()

  def wait(self, limit: float) -> Any:
    self.begun.wait()
    if not futures.wait([self.result], limit).done:
      raise _LateError
    return self.result.result()


@contextlib.contextmanager
def _workers(count: int) -> Iterator[Callable[..., _Found]]:
  """Submits calls to so many threads; none of them holds the program up.

  A call that does not end keeps its thread: another one takes its place.
  """
  todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
  closed = threading.Event()

  def work() -> None:
    while (item := todo.get()) is not None and not closed.is_set():
      found, call, args = item
      found.begun.set()
      try:
        found.result.set_result(call(*args))
      except BaseException as e:
        found.result.set_exception(e)

  def start() -> None:
    threading.Thread(target=work, daemon=True).start()

  class Late(_Found):
    def wait(self, limit: float) -> Any:
      try:
        return super().wait(limit)
      except _LateError:
        start()
        raise

  def submit(call: Callable[..., Any], *args: Any) -> _Found:
    found = Late()
    todo.put((found, call, args))
    return found

  for _ in range(count):
    start()
  try:
    yield submit
  finally:
    closed.set()
    for _ in range(count):
      todo.put(None)


def _find(path: str) -> Callable[..., Any]:
  """The function that a flag names."""
  file, _, name = path.rpartition(":")
  given = f"--judge.path={path}"
  if not file or not name.isidentifier():
    raise ValueError(f"{given}: expected FILE.py:NAME of a function")
  where = pathlib.Path(file).expanduser()
  if where.suffix != ".py" or not where.is_file():
    raise ValueError(f"{given}: there is no file {file} that ends in .py")
  spec = importlib.util.spec_from_file_location(where.stem, where)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as e:
    raise ValueError(f"{given}: {type(e).__name__} in it: {e}") from e
  found = getattr(module, name, None)
  if not callable(found):
    raise ValueError(f"{given}: {file} has no function {name}")
  return found
