"""Real labelled texts on every machine: docstrings and their packages."""

import ast
from collections.abc import Iterator
import dataclasses
import sys

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import stdlib
from llm_jax.data.example import Example, Kind

# Large, and in every Python, however it was packaged.
PACKAGES = (
  *("asyncio", "email", "http", "importlib", "logging", "multiprocessing"),
  *("unittest", "xml"),
)
_SHORTEST = 20  # characters that say something


@dataclasses.dataclass(frozen=True)
class StdlibExamples:
  """Which package of the standard library a docstring comes from.

  The modules are read, never imported. A docstring that several packages have
  is left out.
  """

  packages: tuple[str, ...] = field(PACKAGES, "packages that are told apart")

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version and the packages."""
    del progress  # nothing to wait for
    return f"stdlib-examples-1 {' '.join(self.packages)} {sys.version}"

  def examples(self, kind: Kind) -> Iterator[Example]:
    """A docstring once, in the order of modules.

    Raises:
      ValueError: labels of another kind, or a package that is not there.
    """
    if kind != "classes":
      raise ValueError(f"--data.rows={kind}: StdlibExamples has classes")
    found: dict[str, set[str]] = {}
    for name, source in stdlib.modules():
      package = name.partition(".")[0]
      if package in self.packages:
        for text in _docstrings(stdlib.parse(source)):
          found.setdefault(text, set()).add(package)
    for package in self.packages:
      if not any(package in its for its in found.values()):
        raise ValueError(
          f"--data.sources.N.packages={package}: no package with docstrings of"
          " this Python's standard library"
        )
    for text, (package, *others) in found.items():
      if not others:
        yield Example(text, package)


def _docstrings(tree: ast.Module) -> Iterator[str]:
  """Of a module, its classes and functions."""
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  for node in stdlib.statements(tree):
    if isinstance(node, kinds):
      text = (ast.get_docstring(node) or "").strip()
      if len(text) >= _SHORTEST:
        yield text
