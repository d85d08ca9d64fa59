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
  folder = storage.local(given.removeprefix(PREFIX), flag).expanduser()
  config = _json(folder / "tokenizer_config.json", flag)
  found: Any = config.get("chat_template")
  path = folder / "chat_template.jinja"
  if path.is_file():
    found = path.read_text(encoding="utf-8")
  if isinstance(found, list):  # several, by name
    named = {its.get("name"): its.get("template") for its in found}
    found = named.get("default")
  if not isinstance(found, str) or not found:
    raise ValueError(f"{flag}: the folder has no chat template")
  added = _json(folder / "tokenizer.json", flag).get("added_tokens", [])
  words = tuple(t["content"] for t in added if t.get("special"))
  return Foreign(
    found, words, _word(config, "bos_token"), _word(config, "eos_token")
  )


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


def _word(config: dict[str, Any], name: str) -> str:
  found = config.get(name) or ""
  return found["content"] if isinstance(found, dict) else found


def _json(path: pathlib.Path, flag: str) -> dict[str, Any]:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    said = storage.reason(e)
    raise ValueError(f"{flag}: {path.name} cannot be read ({said})") from e
