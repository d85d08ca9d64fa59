"""Chat templates of others, in a folder of the ecosystem.

They write special tokens as text. Only what the template itself writes becomes
a special id: names of tokens in a message are broken up while rendering. Where
no {% generation %} says what the assistant says, it is what a rendering with
its turn has more than the prompt for it, up to the last special token.
"""

from collections.abc import Callable, Sequence
import json
import pathlib
import re
from typing import Any, NamedTuple

from llm_jax import storage

PREFIX = "hf:"
Span = tuple[int, int]


class Foreign(NamedTuple):
  """A template, and the tokens that it may write."""

  source: str
  words: tuple[str, ...]  # of special tokens
  bos: str
  eos: str

  @property
  def marks_answers(self) -> bool:
    """Whether it says itself what the assistant says."""
    return re.search(r"{%-?\s*generation\b", self.source) is not None

  def pattern(self) -> re.Pattern:
    """Finds its special tokens, the longest first."""
    words = sorted(self.words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)) or "(?!)")

  def broken(self, text: str, mark: str) -> str:
    """A message in which no token's name can be found."""
    return self.pattern().sub(lambda m: m[0][0] + mark + m[0][1:], text)


def read(given: str, flag: str) -> Foreign:
  """The template of "hf:PATH".

  Raises:
    ValueError: no folder, or one without a chat template or its tokens.
  """
  folder = storage.local(given.removeprefix(PREFIX), flag)
  config = _json(folder / "tokenizer_config.json", flag)
  found: Any = config.get("chat_template")
  path = folder / "chat_template.jinja"
  if path.is_file():
    found = path.read_text(encoding="utf-8")
  if isinstance(found, list):  # several, by name
    found = {its["name"]: its.get("template") for its in _named(found, "name")}
    found = found.get("default")
  if not isinstance(found, str) or not found:
    raise ValueError(f"{flag}: the folder has no chat template")
  added = _json(folder / "tokenizer.json", flag).get("added_tokens", [])
  words = (t["content"] for t in _named(added, "content") if t.get("special"))
  bos, eos = (_word(config, name, flag) for name in ("bos_token", "eos_token"))
  return Foreign(found, tuple(filter(None, words)), bos, eos)


def _named(found: Any, key: str) -> list[dict[str, Any]]:
  """Objects of a list that say a text by this key; others say nothing."""
  these = found if isinstance(found, list) else []
  said = [its for its in these if isinstance(its, dict)]
  return [its for its in said if isinstance(its.get(key), str)]


def spans(
  render: Callable[[Sequence[Any], bool], str],
  messages: Sequence[Any],
  whole: str,
  pattern: re.Pattern,
) -> list[Span]:
  """Where in a rendering the assistant speaks, what ends it included.

  Args:
    render: (messages, whether a prompt) -> text.
    messages: all that were rendered.
    whole: their rendering.
    pattern: finds special tokens.

  Raises:
    ValueError: the rendering of a beginning is not how that of all begins.
  """
  out = []
  for i, message in enumerate(messages):
    if message.role != "assistant":
      continue
    before = render(messages[:i], True)
    until = render(messages[: i + 1], False)
    if not until.startswith(before) or not whole.startswith(until):
      raise ValueError(
        "has no {% generation %}, and writes a beginning of a conversation"
        " otherwise than the whole of it"
      )
    found = list(pattern.finditer(until, len(before)))
    out.append((len(before), found[-1].end() if found else len(until)))
  return out


def _word(config: dict[str, Any], name: str, flag: str) -> str:
  found = config.get(name) or ""
  if isinstance(found, dict):
    found = found.get("content")
  if not isinstance(found, str):
    raise ValueError(
      f"{flag}: {name} of tokenizer_config.json is {found!r:.80}, and no text"
    )
  return found


def _json(path: pathlib.Path, flag: str) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as e:
    said = storage.reason(e)
    raise ValueError(f"{flag}: {path.name} cannot be read ({said})") from e
  if not isinstance(found, dict):
    raise ValueError(f"{flag}: {path.name} is no object of JSON")
  return found
