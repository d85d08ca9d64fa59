"""Real questions about texts on every machine: signatures of functions."""

import ast
from collections.abc import Iterator
import dataclasses
import random
import sys
from typing import NamedTuple

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import stdlib
from llm_jax.data.passage import Passage

_LONGEST = 80  # characters of arguments, or of what a function is said to do


@dataclasses.dataclass(frozen=True)
class StdlibPassages:
  """What arguments a function has, answered by a few of a module's functions.

  A text has a line a function: its signature, and the first line of its
  docstring; `self` is no part of an answer, and no two functions have the same.
  Of half of the questions the function is not in the text, but in another one.
  The modules are read, never imported.
  """

  functions: int = field(3, "functions of a text", low=1)

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version and the setting."""
    del progress  # nothing to wait for
    return f"stdlib-passages-1 {self.functions} {sys.version}"

  def passages(self) -> Iterator[Passage]:
    """Of each text in the order of modules, then of their functions."""
    texts = [
      (f"{module}-{i}", found[i : i + self.functions])
      for module, source in stdlib.modules()
      for found in [_functions(source)]
      for i in range(0, len(found) - self.functions + 1, self.functions)
    ]
    names = sorted({f.name for _, its in texts for f in its})
    r = random.Random(0)
    for where, its in texts:
      context = "\n".join(f.line for f in its)
      here = {f.name for f in its}
      others = [name for name in names if name not in here]
      for f in its:
        at = context.index(f"def {f.name}(") + len(f"def {f.name}({f.before}")
        answers = ((f.arguments, at),)
        yield Passage(f"{where}-{f.name}", _asked(f.name), context, answers)
        if others:
          other = r.choice(others)
          yield Passage(f"{where}-{f.name}-none", _asked(other), context)


class _Function(NamedTuple):
  """What a signature and a docstring say."""

  name: str
  before: str  # "self, " or the like, or nothing
  arguments: str  # all others
  said: str  # first line of the docstring

  @property
  def line(self) -> str:
    return (
      f"def {self.name}({self.before}{self.arguments}): {self.said}".strip()
    )


def _asked(name: str) -> str:
  return f"arguments of {name}"


def _functions(source: str) -> list[_Function]:
  """Functions with arguments, each name and all arguments once."""
  found: dict[str, _Function] = {}
  for node in stdlib.statements(stdlib.parse(source)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      whole = ast.unparse(node.args)
      first = next((s for s in ("self, ", "cls, ") if whole.startswith(s)), "")
      arguments = whole.removeprefix(first)
      said = (ast.get_docstring(node) or "").partition("\n")[0].strip()
      if 3 < len(arguments) <= _LONGEST and len(said) <= _LONGEST:
        if arguments not in ("self", "cls") and not node.name.startswith("__"):
          f = _Function(node.name, first, arguments, said)
          found.setdefault(arguments, f)
  by_name = {f.name: f for f in reversed(found.values())}
  return list(reversed(by_name.values()))
