"""Real preferences on every machine: a docstring's own first line, or not."""

from collections.abc import Iterator
import dataclasses
import random
import sys

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data.conversation import Conversation
from llm_jax.data.preference import Preference
from llm_jax.data.stdlib_tasks import group_of, StdlibTasks

KINDS = ("other", "truncated")
_TRIES = 32  # looks for another line


@dataclasses.dataclass(frozen=True)
class StdlibPreferences:
  """What a function does in one line: its docstring's over another line.

  The prompts are those of the task "docstring" of `StdlibTasks`. Rejected is
  the line of a function of another module, or the right line cut short. A
  module is in one split only, the split in which `StdlibTasks` has it, and so
  are the lines that are rejected, if shares are twentieths.
  """

  rejected: tuple[str, ...] = field(
    KINDS, f"what the right line is preferred to, of {', '.join(KINDS)}"
  )

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version and the settings."""
    del progress  # nothing to wait for
    self._check()
    return f"stdlib-preferences-1 {' '.join(self.rejected)} {sys.version}"

  def documents(self) -> Iterator[str]:
    """Preferences as JSON."""
    return (p.to_json() for p in self.preferences())

  def preferences(self) -> Iterator[Preference]:
    """One for each function and kind of rejected line."""
    self._check()
    asked = list(StdlibTasks(("docstring",)).conversations())
    near: dict[int, list[Conversation]] = {}
    for c in asked:
      near.setdefault(group_of(c.placed), []).append(c)
    for c in asked:
      for kind in self.rejected:
        r = random.Random(f"{kind} {c.to_json()}")
        if kind == "other":
          line = _other(c, near[group_of(c.placed)], r)
        else:
          line = _truncated(c.answer, r)
        if line:
          yield Preference(
            c.question.messages,
            (c.answer, line),
            "order",
            ((1, 0),),
            place=c.place,
            task=kind,
          )

  def _check(self) -> None:
    unknown = [k for k in self.rejected if k not in KINDS]
    if unknown or not self.rejected:
      raise ValueError(
        f"--data.sources.N.rejected={','.join(self.rejected)}: some of"
        f" {', '.join(KINDS)}"
      )


def _other(
  conversation: Conversation, near: list[Conversation], r: random.Random
) -> str:
  """Another module's line; nothing where there is none."""
  for _ in range(_TRIES):
    other = r.choice(near)
    if (
      other.place != conversation.place and other.answer != conversation.answer
    ):
      return other.answer
  return ""


def _truncated(line: str, r: random.Random) -> str:
  """A line cut before one of its words; nothing where it has but one."""
  words = line.split(" ")
  if len(words) < 2:
    return ""
  return " ".join(words[: r.randrange(1, len(words))]).rstrip()
