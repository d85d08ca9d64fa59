"""One form for every instruction example: a conversation."""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any, NamedTuple

from llm_jax.data import splits, tables

ROLES = ("system", "user", "assistant")


class Message(NamedTuple):
  """What one of `ROLES` said."""

  role: str
  content: str


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Messages in order; what the assistant says is learned.

  Attributes:
    messages: at least one is the assistant's.
    place: in [0, 1), decides the split; None = by a hash of what is asked
      first, so that one question is never in two.
    task: what kind of example it is, where its source tells.
  """

  messages: tuple[Message, ...]
  place: float | None = None
  task: str = ""

  @property
  def question(self) -> "Conversation":
    """All that stands before the last answer."""
    return dataclasses.replace(self, messages=self.messages[: self._last])

  @property
  def answer(self) -> str:
    """What the assistant says last."""
    return self.messages[self._last].content

  @property
  def placed(self) -> float:
    """The number that decides the split."""
    if self.place is not None:
      return self.place
    roles = [m.role for m in self.messages]
    asked = roles.index("user") if "user" in roles else len(roles)
    # Where the assistant greets first, a greeting alone is no question.
    answers = (i for i, role in enumerate(roles) if role == "assistant")
    first = next((i for i in answers if i > asked), len(roles))
    return splits.place(json.dumps(self.messages[:first]))

  @property
  def _last(self) -> int:
    roles = [m.role for m in self.messages]
    return len(roles) - 1 - roles[::-1].index("assistant")

  def to_json(self) -> str:
    """One line, the same for the same conversation."""
    return json.dumps(
      [self.messages, self.place, self.task],
      ensure_ascii=False,
      separators=(",", ":"),
    )


def from_json(line: str) -> Conversation:
  """The inverse of `Conversation.to_json`."""
  messages, place, task = json.loads(line)
  return Conversation(tuple(Message(*m) for m in messages), place, task)


def checked(given: Any, where: str, name: str = "messages") -> Conversation:
  """Messages as they come in a row -> a conversation.

  Raises:
    ValueError: what `turns` raises, or no turn of the assistant.
  """
  messages = turns(given, where, name)
  if not any(m.role == "assistant" for m in messages):
    raise ValueError(f"{where}: field {name!r} holds no turn of the assistant")
  return Conversation(messages)


def turns(given: Any, where: str, name: str) -> tuple[Message, ...]:
  """Messages as they come in a row.

  Args:
    given: a sequence of mappings with `role` and `content`.
    where: file and line, for errors.
    name: of the field that they stand in.

  Raises:
    ValueError: an unknown role, or content that is no text.
  """
  if not isinstance(given, Sequence) or isinstance(given, str | bytes):
    raise ValueError(f"{where}: field {name!r} is no list but {given!r:.60}")
  messages = []
  for i, turn in enumerate(given):
    here = f"{name}[{i}]"
    if not isinstance(turn, dict):
      raise ValueError(f"{where}: {here} is no object but {turn!r:.60}")
    for part in ("role", "content"):
      if part not in turn:
        raise ValueError(
          f"{where}: {here} has no {part!r}; fields there:"
          f" {', '.join(map(str, turn))}"
        )
    role = turn["role"]
    if role not in ROLES:
      raise ValueError(
        f"{where}: {here} has the unknown role {role!r:.40}; known:"
        f" {', '.join(ROLES)}"
      )
    content = tables.whole(turn["content"], f"{here} content", where)
    messages.append(Message(role, content))
  return tuple(messages)
