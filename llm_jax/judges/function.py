"""A Python function of one's own as a judge."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import importlib.util
import itertools
import math
import numbers
import pathlib
from typing import Any
import zlib

from llm_jax.config import field
from llm_jax.contracts import Question, Verdict
from llm_jax.judges import workers


@dataclasses.dataclass(frozen=True)
class Function:
  """A function (prompt, completion, reference) -> score, on strings.

  `reference` is None where no answer is known to be right. The file is run as
  it stands: name only what you trust.
  """

  path: str = field("", "FILE.py:NAME of the function; the file is run")
  together: bool = field(
    False,
    "it is called once with lists, of all that is to be scored, and returns as"
    " many scores",
  )
  concurrency: int = field(4, "completions scored at a time", low=1)
  timeout: float = field(
    30.0, "seconds that a call may take, of one completion or all", low=0.001
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
    if settings.together:
      self.about["together"] = True

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question.

    Raises:
      ValueError: a score failed, and `failed` says nothing.
    """
    asked = [
      (_shown(q), c, q.reference) for q in questions for c in q.completions
    ]
    with workers.workers(self._settings.concurrency) as submit:
      if self._settings.together and asked:
        lists = map(list, zip(*asked, strict=True))
        given = iter(self._list(submit(self._call, *lists), len(asked)))
      else:
        made = [submit(self._call, *row) for row in asked]
        given = (self._given(result) for result in made)
      for question in questions:
        here = itertools.islice(given, len(question.completions))
        yield Verdict(tuple(self._score(x) for x in here))

  def _score(self, given: Any) -> float:
    """A score, or that of a failure; ValueError where there is none."""
    problem = f"gave {given!r:.40}, no number"
    if isinstance(given, _Failure):
      problem = given.why
    elif isinstance(given, numbers.Real) and not isinstance(given, bool):
      if math.isfinite(given):
        return float(given)
      problem = f"gave {given}"
    if self._settings.failed is None:
      raise ValueError(
        f"--judge.path={self._settings.path}: {problem}; --judge.failed=0, say,"
        " would be its score"
      )
    return self._settings.failed

  def _list(self, result: workers.Result, count: int) -> list[Any]:
    """What one call gave for each of so many completions."""
    given = self._given(result)
    if isinstance(given, _Failure):
      return [given] * count
    if isinstance(given, str) or not isinstance(given, Iterable):
      return [_Failure(f"gave {given!r:.40}, no list of scores")] * count
    if len(found := list(given)) != count:
      return [_Failure(f"gave {len(found)} scores for {count}")] * count
    return found

  def _given(self, result: workers.Result) -> Any:
    """What a call gave, or why it gave nothing."""
    limit = self._settings.timeout
    try:
      return result.wait(limit)
    except workers.LateError:
      return _Failure(f"took longer than --judge.timeout={limit}")
    except (Exception, SystemExit) as e:
      return _Failure(f"raised {type(e).__name__}: {e}")


@dataclasses.dataclass(frozen=True)
class _Failure:
  """There is no score."""

  why: str


def _shown(question: Question) -> str:
  """The prompt of a question, as functions see it."""
  return "\n".join(content for _, content in question.messages)


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
