"""Real questions about texts on every machine: what a function's line says."""

import ast
from collections.abc import Iterator
import dataclasses
import sys
from typing import NamedTuple

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import stdlib
from llm_jax.data.passage import Passage

_LONGEST = 80  # characters of arguments, or of what a function is said to do


@dataclasses.dataclass(frozen=True)
class StdlibPassages:
  """What a signature and a docstring say, or do not.

  A text has a line a function: its signature, and the first line of its
  docstring. Of each function four questions are asked: its arguments, without
  `self`; its last argument; that one's default; and its purpose. Where there is
  no default, or no docstring, there is no answer. The modules are read, never
  imported.
  """

  functions: int = field(
    1, "functions of a text; of several, a question's name says which", low=1
  )

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version and the setting."""
    del progress  # nothing to wait for
    return f"stdlib-passages-2 {self.functions} {sys.version}"

  def passages(self) -> Iterator[Passage]:
    """Of each text in the order of modules, then of their functions."""
    n = self.functions
    for module, source in stdlib.modules():
      found = _functions(source)
      for i in range(0, len(found) - n + 1, n):
        its = found[i : i + n]
        context = "\n".join(f.line for f in its)
        for f in its:
          line = context.index(f"def {f.name}(")
          for question, answers in f.asked():
            yield Passage(
              f"{module}-{i}-{f.name}-{question.split()[0]}",
              f"{question} of {f.name}",
              context,
              tuple((answer, line + at) for answer, at in answers),
            )


class _Function(NamedTuple):
  """What a signature and a docstring say."""

  name: str
  before: str  # "self, " or the like, or nothing
  arguments: str  # all others
  last: str  # the last one's name
  default: str  # of the last one; "" without one
  said: str  # first line of the docstring

  @property
  def line(self) -> str:
    return f"{self._signature}{self.said}".strip()

  @property
  def _signature(self) -> str:
    return f"def {self.name}({self.before}{self.arguments}): "

  def asked(self) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yields what is asked, and answers with their places in the line."""
    end = len(self._signature) - len("): ")
    default = [(self.default, end - len(self.default))] if self.default else []
    # The last one's name stands before "=" and its default, or at the end.
    last = end - len(self.last) - (len(self.default) + 1 if default else 0)
    yield "arguments", [(self.arguments, end - len(self.arguments))]
    yield "last argument", [(self.last, last)]
    yield "default of the last argument", default
    yield "purpose", [(self.said, len(self._signature))] if self.said else []


def _functions(source: str) -> list[_Function]:
  """Functions with arguments, each name and all arguments once."""
  found: dict[str, _Function] = {}
  for node in stdlib.statements(stdlib.parse(source)):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      whole = ast.unparse(node.args)
      first = next((s for s in ("self, ", "cls, ") if whole.startswith(s)), "")
      arguments = whole.removeprefix(first)
      said = (ast.get_docstring(node) or "").partition("\n")[0].strip()
      last, default = _last(node.args)
      if (
        3 < len(arguments) <= _LONGEST
        and len(said) <= _LONGEST
        and arguments not in ("self", "cls")
        and last
        and arguments.endswith(last + (f"={default}" if default else ""))
        and not node.name.startswith("__")
      ):
        f = _Function(node.name, first, arguments, last, default, said)
        found.setdefault(arguments, f)
  by_name = {f.name: f for f in reversed(found.values())}
  return list(reversed(by_name.values()))


def _last(its: ast.arguments) -> tuple[str, str]:
  """The last argument and its default, as they are written; "" without."""
  default: ast.expr | None = None
  if its.kwarg:
    last = its.kwarg
  elif its.kwonlyargs:
    last, default = its.kwonlyargs[-1], its.kw_defaults[-1]
  elif its.vararg:
    last = its.vararg
  elif its.args:
    last, default = its.args[-1], its.defaults[-1] if its.defaults else None
  else:
    return "", ""
  return ast.unparse(last), ast.unparse(default) if default else ""
