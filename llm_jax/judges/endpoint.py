"""A model behind an OpenAI-compatible address as a judge.

What is known of the interface: POST {url}/chat/completions with `model` and
`messages`; the answer has `choices[0].message.content`.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
import contextlib
import dataclasses
import json
import os
import re
import threading
from typing import Any, Literal, TypeVar

from llm_jax import host, storage
from llm_jax.config import field
from llm_jax.contracts import Question, Verdict
from llm_jax.judges import comparisons, forms, http
from llm_jax.judges.comparisons import Answer, Two
from llm_jax.judges.memory import Memory

T = TypeVar("T")
_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_LONGEST_WAIT = 60.0  # seconds between two tries
_SAID_AGAIN = 2000  # characters of an unusable answer that are shown to it
_AGAIN = "Answer with one JSON object of the form asked for, and nothing else."


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """Where the model is, what it is asked, and how patiently."""

  url: str = field(
    "http://localhost:8000/v1", "address that /chat/completions is added to"
  )
  model: str = field("", "name of the model there")
  key: str | None = field(
    None,
    "environment variable that holds the key; none = no key is sent",
  )
  rubric: str = field(
    "You are an impartial judge. A good answer is correct, helpful, and no"
    " longer than it has to be.",
    "what the model is told to judge by",
  )
  ask: Literal["pairs", "scores"] = field(
    "pairs",
    "pairs = every two completions, both ways round; scores = each alone",
  )
  temperature: float | None = field(
    0.0, "of its sampling; none = the server's", low=0
  )
  max_tokens: int | None = field(
    512, "tokens of its answer; none = the server's", low=1
  )
  concurrency: int = field(4, "requests at a time", low=1)
  timeout: float = field(60.0, "seconds to wait for an answer", low=0.01)
  retries: int = field(5, "further tries for one answer", low=0)
  wait: float = field(
    1.0, "seconds before the first further try; then twice as long", low=0
  )
  cache: str | None = field(
    None, "folder that keeps its answers; none = ~/.cache/llm_jax/answers"
  )

  def __post_init__(self) -> None:
    http.check(self.url)
    if self.key is not None and not _NAME.fullmatch(self.key):
      raise ValueError(  # and is not repeated: it may be the key
        "--judge.key: expected the name of an environment variable that holds"
        " the key, in capitals, such as OPENAI_API_KEY; never the key itself"
      )

  @property
  def decisive(self) -> dict[str, Any]:
    """The settings that an answer depends on."""
    names = ("url", "model", "rubric", "ask", "temperature", "max_tokens")
    return {name: getattr(self, name) for name in names}


class ByEndpoint:
  """The judge behind an address."""

  def __init__(self, settings: Endpoint):
    if not settings.model:
      raise ValueError("--judge.model: no name of a model given")
    self._settings, self._key = settings, _key(settings.key)
    folder = host.cache_folder() / "answers"
    if settings.cache:
      folder = storage.local(settings.cache, "judge.cache")
    self._memory = Memory(folder.expanduser())
    self._stop = threading.Event()

  def __call__(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    """Yields a verdict for each question.

    Raises:
      ValueError: there is no usable answer after the last try.
    """
    if self._settings.ask == "pairs":
      return comparisons.judge(questions, self._compare)
    return self._score(questions)

  def _compare(self, twos: Sequence[Two]) -> Iterator[Answer]:
    def one(two: Two) -> Answer:
      shown = {
        "question": two.question,
        "answer_A": two.first,
        "answer_B": two.second,
      }
      return self._ask(forms.PAIRS, shown, forms.better)

    return self._together(one, twos)

  def _score(self, questions: Sequence[Question]) -> Iterator[Verdict]:
    def one(row: tuple[Question, str]) -> tuple[float, str]:
      question, completion = row
      asked = comparisons.shown(question.messages)
      shown = {"question": asked, "answer": completion}
      return self._ask(forms.SCORES, shown, forms.scored)

    rows = [(q, c) for q in questions for c in q.completions]
    found = self._together(one, rows)
    for question in questions:
      each = [next(found) for _ in question.completions]
      reason = "; ".join(f"{i}: {why}" for i, (_, why) in enumerate(each))
      yield Verdict(tuple(score for score, _ in each), reason=reason)

  def _together(
    self, one: Callable[[Any], T], items: Sequence[Any]
  ) -> Iterator[T]:
    """Results in order, some at a time; after an error nothing is begun."""
    self._stop.clear()
    failures: list[BaseException] = []  # what came after the first may be of it

    def unless_stopped(item: Any) -> T:
      if self._stop.is_set():
        raise futures.CancelledError
      try:
        return one(item)
      except BaseException as e:
        failures.append(e)
        self._stop.set()
        raise

    pool = futures.ThreadPoolExecutor(self._settings.concurrency, "judge")
    try:
      for future in [pool.submit(unless_stopped, item) for item in items]:
        if (error := future.exception()) is not None:
          raise (failures or [error])[0]
        yield future.result()
    finally:
      self._stop.set()
      pool.shutdown(cancel_futures=True)

  def _ask(
    self, form: str, shown: dict[str, str], read: Callable[[str], T]
  ) -> T:
    """An answer as it is read; asks until one can be, a few times."""
    s = self._settings
    messages = [
      {"role": "system", "content": s.rubric + form},
      {"role": "user", "content": json.dumps(shown, ensure_ascii=False)},
    ]
    payload: dict[str, Any] = {"model": s.model, "messages": messages}
    payload |= {
      name: value
      for name in ("temperature", "max_tokens")
      if (value := getattr(s, name)) is not None
    }
    asked = {"url": s.url, **payload}
    known = self._memory.find(asked)
    if known is not None:
      with contextlib.suppress(http.TryAgainError):
        return read(known)
    for n in range(1 + s.retries):
      content = ""
      try:
        content = self._post(payload)
        found = read(content)
      except http.TryAgainError as e:
        why, wait = str(e), max(e.wait, s.wait * 2 ** min(n, 20))
      else:
        self._memory.keep(asked, content)
        return found
      if content:  # the same question would get the same answer
        said = {"role": "assistant", "content": content[:_SAID_AGAIN]}
        ask = {"role": "user", "content": _AGAIN}
        payload = {**payload, "messages": [*messages, said, ask]}
      if n == s.retries or self._stop.wait(min(wait, _LONGEST_WAIT)):
        break
    raise ValueError(
      f"--judge.url={s.url}: no usable answer in {n + 1} tries; the last time"
      f" {why}"
    )

  def _post(self, payload: dict[str, Any]) -> str:
    """The text that the model answers with."""
    s = self._settings
    url = f"{s.url.rstrip('/')}/chat/completions"
    found = http.post(url, payload, self._key, s.timeout)
    try:
      content = found["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
      content = None
    if not isinstance(content, str):
      raise http.TryAgainError(
        "it gave an answer without choices[0].message.content"
      )
    if http.hidden(content, self._key) != content:
      raise http.TryAgainError("it gave an answer that holds a part of the key")
    return content


def _key(name: str | None) -> str | None:
  """The value of an environment variable, of which no error says a word."""
  if name is None:
    return None
  value = os.environ.get(name, "").strip()
  if not value:
    raise ValueError(
      f"--judge.key={name}: the environment has no such variable, or an empty"
      " one; this setting is a name, the key itself stands in the environment"
    )
  if not (value.isascii() and value.isprintable() and " " not in value):
    raise ValueError(
      f"--judge.key={name}: its value is no key: it holds spaces, or what is"
      " not printable ASCII"
    )
  return value
