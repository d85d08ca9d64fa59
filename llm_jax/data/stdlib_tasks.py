"""Real instructions on every machine, from the standard library's functions."""

import ast
from collections.abc import Iterator
import dataclasses
import random
import sys
from typing import NamedTuple

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import splits, stdlib, templates
from llm_jax.data.conversation import Conversation, Message

_LONGEST = 240  # characters of code or docstring that are shown
_LONGEST_ANSWER = 120
_GROUPS = 20  # modules named beside each other have a 20th in common

TASKS = {
  "docstring": templates.Task(
    (
      "Write the first line of this function's docstring.\n\n{code}",
      "What does this function do? Answer in one line.\n\n{code}",
      "{code}\n\nDocument the function above in one line.",
    ),
    "summary",
  ),
  "name": templates.Task(
    (
      "Name the function that this docstring describes.\n\n{docstring}",
      "{docstring}\n\nWhat is the function called that does this?",
      "What is a function called with this docstring?\n\n{docstring}",
    ),
    "name",
  ),
  "module": templates.Task(
    (
      "Which module defines {name}: {choices}?\n\n{docstring}",
      "{docstring}\n\nWhere is {name}, which does this: in {choices}?",
      "One of the modules {choices} defines {name}. Which?\n\n{docstring}",
    ),
    "module",
  ),
  "signature": templates.Task(
    (
      "Complete the signature of {name}.\n\n{docstring}",
      "{docstring}\n\nWhat are the arguments of {name}, which does this?",
      "Which arguments does {name} take?\n\n{docstring}",
    ),
    "arguments",
  ),
}


class _Function(NamedTuple):
  module: str
  place: float
  node: ast.FunctionDef | ast.AsyncFunctionDef
  docstring: str


@dataclasses.dataclass(frozen=True)
class StdlibTasks:
  """Questions about functions that have a docstring, about 6,000 of them.

  The modules are read, never imported. A module is in one split only, and in
  the split that `Stdlib("docs")` has it in, if the shares are the same.
  """

  tasks: tuple[str, ...] = field(
    tuple(TASKS), f"kinds of question, of {', '.join(TASKS)}"
  )

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version and the tasks."""
    del progress  # nothing to wait for
    self._check()
    return f"stdlib-tasks-1 {' '.join(self.tasks)} {sys.version}"

  def documents(self) -> Iterator[str]:
    """Conversations as JSON."""
    return (c.to_json() for c in self.conversations())

  def conversations(self) -> Iterator[Conversation]:
    """One for each function and task; no question comes twice."""
    self._check()
    functions = list(_functions())
    neighbours: dict[int, dict[str, None]] = {}
    for f in functions:
      neighbours.setdefault(group_of(f.place), {})[f.module] = None
    asked = set()
    for f in functions:
      modules = list(neighbours[group_of(f.place)])
      known = _fields(f, modules)
      for name in self.tasks:
        task = TASKS[name]
        if name == "module" and len(modules) == 1:
          continue  # nothing to choose
        if len(known[task.answer]) > _LONGEST_ANSWER:
          continue
        question, answer = templates.ask(task, known.get, f.module)
        if question not in asked:
          asked.add(question)
          yield Conversation(
            (Message("user", question), Message("assistant", answer)),
            f.place,
            name,
          )

  def _check(self) -> None:
    unknown = [t for t in self.tasks if t not in TASKS]
    if unknown or not self.tasks:
      raise ValueError(
        f"--data.sources.N.tasks={','.join(self.tasks)}: some of"
        f" {', '.join(TASKS)}"
      )


def _functions() -> Iterator[_Function]:
  for module, source in stdlib.modules():
    tree = stdlib.parse(source)
    place = splits.place(stdlib.docstrings(tree))
    for node in stdlib.statements(tree):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = (ast.get_docstring(node) or "").strip()
        if docstring:
          yield _Function(module, place, node, docstring)


def group_of(place: float) -> int:
  """Modules of one group are named beside each other."""
  return int(place * _GROUPS)


def _fields(function: _Function, modules: list[str]) -> dict[str, str]:
  """What the wordings may name."""
  node, docstring = function.node, function.docstring
  others = [m for m in modules if m != function.module]
  r = random.Random(f"{function.module} {node.name} {docstring}")
  choices = [*r.sample(others, min(2, len(others))), function.module]
  r.shuffle(choices)
  bare = type(node)(
    **{
      **dict(ast.iter_fields(node)),
      "body": node.body[1:] or [ast.Pass()],
      "decorator_list": [],
    }
  )
  return {
    "code": _shown(ast.unparse(ast.fix_missing_locations(bare))),
    "docstring": _shown(docstring),
    "summary": docstring.splitlines()[0].strip(),
    "name": node.name,
    "arguments": f"({ast.unparse(node.args)})",
    "module": function.module,
    "choices": " or ".join(choices),
  }


def _shown(text: str) -> str:
  """The beginning of a text, cut after a word."""
  if len(text) <= _LONGEST:
    return text
  cut = text[:_LONGEST]
  return f"{cut[: max(cut.rfind(' '), cut.rfind(chr(10))) + 1].rstrip()} ..."
