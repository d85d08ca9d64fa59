"""Rows in the forms that people have -> conversations."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Literal

from llm_jax.config import field
from llm_jax.data import tables, templates
from llm_jax.data.conversation import checked, Conversation, Message

Row = Mapping[str, Any]
# A row is of the first format whose fields it has.
FIELDS = {
  "messages": ("messages",),
  "prompt_completion": ("prompt", "completion"),
  "alpaca": ("instruction", "output"),
}


class Renamed:
  """Fields of rows by our names, where a table has others for them."""

  fields: tuple[str, ...]

  def _check_fields(self) -> None:
    for pair in self.fields:
      if not all(pair.partition("=")):
        raise ValueError(
          f"--data.sources.N.fields={pair}: expected OURS=THEIRS, such as"
          " prompt=query"
        )

  def _text(self, row: Row, name: str, where: str) -> str:
    return tables.text(row, self._present(row, name, where), where)

  def _present(self, row: Row, name: str, where: str) -> str:
    name = self._name(name)
    if name not in row:
      raise ValueError(
        f"{where}: no field {name!r}; fields here:"
        f" {', '.join(map(str, row))} (see"
        " --data.sources.N.fields)"
      )
    return name

  def _format_by_fields(
    self, row: Row, where: str, known: Mapping[str, tuple[str, ...]], see: str
  ) -> str:
    """The first of the known formats whose fields a row has."""
    for name, needed in known.items():
      if all(self._name(f) in row for f in needed):
        return name
    said = "; ".join(", ".join(needed) for needed in known.values())
    raise ValueError(
      f"{where}: fields {', '.join(map(str, row))} are of no known format"
      f" ({said}); see {see}"
    )

  def _name(self, name: str) -> str:
    pairs = (pair.partition("=") for pair in self.fields)
    return {ours: theirs for ours, _, theirs in pairs}.get(name, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form(Renamed):
  """What the rows of a table look like."""

  format: Literal["auto", "messages", "prompt_completion", "alpaca", "task"] = (
    field("auto", "form of the rows; auto = by their fields")
  )
  task: str = field(
    "",
    f"rows are of a task with wordings: {', '.join(templates.TASKS)};"
    " empty = no",
  )
  prompt: str = field(
    "", "one wording, with {field}s, in place of the task's; empty = none"
  )
  answer: str = field(
    "", "field that holds the answer to a prompt; empty = the task's"
  )
  fields: tuple[str, ...] = field(
    (), "OURS=THEIRS where a table has another name for a field"
  )

  def about(self) -> str:
    """Changes with what a row is read as. ValueError where settings clash."""
    flag = "--data.sources.N"
    if self.task and self.task not in templates.TASKS:
      raise ValueError(
        f"{flag}.task={self.task}: one of {', '.join(templates.TASKS)}"
      )
    if self.prompt and not (self.answer or self.task):
      raise ValueError(
        f"{flag}.prompt={self.prompt!r:.40}: needs {flag}.answer, the field"
        " that holds the answer"
      )
    if self.answer and not (self.prompt or self.task):
      raise ValueError(
        f"{flag}.answer={self.answer}: needs {flag}.task or {flag}.prompt,"
        " whose answer it names"
      )
    if self.prompt and not templates.fields(self.prompt):
      raise ValueError(
        f"{flag}.prompt={self.prompt!r:.40}: names no field; write {{text}}"
        " where the field 'text' belongs"
      )
    wording = self.task or self.prompt
    if self.format == "task" and not wording:
      raise ValueError(
        f"{flag}.format=task: needs {flag}.task, one of"
        f" {', '.join(templates.TASKS)}, or {flag}.prompt"
      )
    if wording and self.format not in ("auto", "task"):
      raise ValueError(
        f"{flag}.format={self.format}: reads no task or prompt, but"
        f" {wording!r:.40} is given"
      )
    self._check_fields()
    self._check_ours()
    settings = [getattr(self, f.name) for f in dataclasses.fields(Form)]
    return repr([*settings, templates.TASKS.get(self.task)])

  def _check_ours(self) -> None:
    """ValueError where `fields` renames what is never asked for."""
    names = [n for needed in FIELDS.values() for n in needed] + ["input"]
    if self.task or self.prompt:
      task = self._worded()
      names = [n for w in task.wordings for n in templates.fields(w)]
      names.append(task.answer)
    for pair in self.fields:
      if (ours := pair.partition("=")[0]) not in names:
        raise ValueError(
          f"--data.sources.N.fields={pair}: {ours!r} is read nowhere; known:"
          f" {', '.join(dict.fromkeys(names))}"
        )

  def read(self, row: Row, where: str) -> Conversation:
    """One row; ValueError names where it stands and the field."""
    read: Mapping[str, Callable[[Row, str], Conversation]] = {
      "messages": self._messages,
      "prompt_completion": self._prompt_completion,
      "alpaca": self._alpaca,
      "task": self._task,
    }
    return read[self._format_of(row, where)](row, where)

  def _format_of(self, row: Row, where: str) -> str:
    if self.format != "auto":
      return self.format
    if self.task or self.prompt:
      return "task"
    return self._format_by_fields(
      row, where, FIELDS, "--data.sources.N.task and .fields"
    )

  def _messages(self, row: Row, where: str) -> Conversation:
    name = self._present(row, "messages", where)
    found = checked(row[name], where, name)
    place = row.get("place")  # as the verb `label` writes it
    if isinstance(place, float) and 0 <= place < 1:
      return dataclasses.replace(found, place=place)
    return found

  def _prompt_completion(self, row: Row, where: str) -> Conversation:
    return _pair(
      self._text(row, "prompt", where), self._text(row, "completion", where)
    )

  def _alpaca(self, row: Row, where: str) -> Conversation:
    asked = self._text(row, "instruction", where)
    if row.get(self._name("input")):
      asked = f"{asked}\n\n{self._text(row, 'input', where)}"
    return _pair(asked, self._text(row, "output", where))

  def _worded(self) -> templates.Task:
    """The wordings of the questions, and the field of their answer."""
    task = templates.TASKS.get(self.task, templates.Task((), ""))
    return templates.Task(
      (self.prompt,) if self.prompt else task.wordings,
      self.answer or task.answer,
    )

  def _task(self, row: Row, where: str) -> Conversation:
    def get(name: str) -> str | None:
      value = row.get(self._name(name))
      if isinstance(value, int | float):  # a label
        value = str(value)
      if isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = ", ".join(value)
      if value is None or value == "":
        return None
      return tables.whole(value, f"field {self._name(name)!r}", where)

    asked, answer = templates.ask(
      self._worded(), get, where, list(map(str, row))
    )
    return dataclasses.replace(_pair(asked, answer), task=self.task)


def _pair(asked: str, answer: str) -> Conversation:
  return Conversation((Message("user", asked), Message("assistant", answer)))
