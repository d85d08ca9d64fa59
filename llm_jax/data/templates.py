"""Wordings of common tasks, with places for the fields of a row.

A row of a task becomes a question in one of several wordings and an answer.
Which wording is decided by the row's content alone.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import re
from typing import Any

_PLACE = re.compile(r"\{(\w*)\}")


@dataclasses.dataclass(frozen=True)
class Task:
  """Wordings of the question; `answer` names the field that holds the answer.

  A place is written {name}.
  """

  wordings: tuple[str, ...]
  answer: str


TASKS = {
  "classification": Task(
    (
      "Classify the following text as one of: {labels}.\n\n{text}",
      "{text}\n\nWhich of these labels fits the text above: {labels}?",
      "Read the text and answer with one of the labels {labels}.\n\nText:"
      " {text}",
      "What is the label of this text?\n\n{text}",
      "{text}\n\nClassify the text above. Answer with the label only.",
      "Text: {text}\n\nGive the label that fits this text.",
    ),
    "label",
  ),
  "summarisation": Task(
    (
      "Summarise the following text.\n\n{text}",
      "{text}\n\nWrite a short summary of the text above.",
      "What are the main points of this text?\n\n{text}",
      "Text: {text}\n\nSay the same in a few words.",
    ),
    "summary",
  ),
  "question_answering": Task(
    (
      "{context}\n\nAnswer the question from the text above.\n\n{question}",
      "Read the text, then answer the question.\n\nText: {context}\n\n"
      "Question: {question}",
      "Question: {question}\n\nThe answer is in this text: {context}",
      "{question}",
      "Answer the following question.\n\n{question}",
      "Question: {question}",
      "{question}\n\nGive the answer to the question above.",
    ),
    "answer",
  ),
  "generation": Task(
    (
      "{instruction}\n\n{input}",
      "{instruction}\n\nInput: {input}",
      "Input: {input}\n\n{instruction}",
      "{instruction}",
    ),
    "output",
  ),
  "code": Task(
    (
      "Write {language} code for the following.\n\n{description}",
      "{description}\n\nSolve this in {language}.",
      "How is this done in {language}?\n\n{description}",
      "Write code for the following.\n\n{description}",
      "{description}\n\nSolve this with a program.",
      "Write a program that does what is described here.\n\n{description}",
    ),
    "code",
  ),
  "translation": Task(
    (
      "Translate from {source_language} to {target_language}.\n\n{source}",
      "{source}\n\nSay this in {target_language}; it is {source_language}.",
      "Translate into {target_language}: {source}",
      "What is this in {target_language}?\n\n{source}",
      "Translate the following text.\n\n{source}",
      "{source}\n\nTranslate the text above.",
    ),
    "target",
  ),
}


def fields(wording: str) -> list[str]:
  """Names of the places in a wording, each once."""
  return list(dict.fromkeys(_PLACE.findall(wording)))


def fill(wording: str, values: Mapping[str, str]) -> str:
  """A wording with its places filled; values are never read as wordings."""
  return _PLACE.sub(lambda place: values[place.group(1)], wording)


def ask(
  task: Task,
  get: Callable[[str], str | None],
  where: str,
  there: Sequence[str] = (),
) -> tuple[str, str]:
  """(question, answer) of a row.

  The wordings that name most of the row's fields are used; one of them is
  chosen by a hash of the answer and of those fields.

  Args:
    task: its wordings.
    get: name of a field -> its text; None where the row has none.
    where: file and line, for errors.
    there: names of the row's fields, for errors.

  Raises:
    ValueError: a field that every wording, or the answer, names is absent.
  """
  names = {n for w in task.wordings for n in fields(w)} | {task.answer}
  found = {name: text for name in names if (text := get(name)) is not None}
  if task.answer not in found:
    raise ValueError(
      f"{where}: no text in field {task.answer!r}, which is the answer;"
      f" fields here: {', '.join(there)}"
    )
  usable = [w for w in task.wordings if set(fields(w)) <= set(found)]
  if not usable:
    least = min(task.wordings, key=lambda w: len(fields(w)))
    absent = [n for n in fields(least) if n not in found]
    raise ValueError(
      f"{where}: the template {least!r:.70} names the field"
      f" {absent[0]!r}, which is absent; fields here: {', '.join(there)}"
    )
  most = max(len(fields(w)) for w in usable)
  best = [w for w in usable if len(fields(w)) == most]
  used = sorted({n for w in best for n in fields(w)} | {task.answer})
  wording = best[_number([found[n] for n in used]) % len(best)]
  return fill(wording, found), found[task.answer]


def _number(parts: Any) -> int:
  digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
  return int.from_bytes(digest, "big")
