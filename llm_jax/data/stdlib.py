"""Real text on every machine: the running interpreter's standard library."""

import ast
from collections.abc import Iterator
import dataclasses
import inspect
import os
import pathlib
import sys
import sysconfig
import tokenize
from typing import Literal
import warnings

from llm_jax.config import field
from llm_jax.contracts import Progress

# Not the library's own text: its tests, other people's packages, caches.
_SKIPPED = {
  "test",
  "tests",
  "idle_test",
  "site-packages",
  "dist-packages",
  "__pycache__",
  "pydoc_data",  # read as topics
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclasses.dataclass(frozen=True)
class Stdlib:
  """Docstrings and the language reference (2 MB), or the source (11 MB).

  The modules are read, never imported.
  """

  variant: Literal["docs", "code"] = field(
    "docs", "docstrings and language reference, or source code"
  )

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version."""
    del progress  # nothing to wait for
    return f"stdlib-3 {self.variant} {sys.version}"

  def documents(self) -> Iterator[str]:
    """One document a module, then one a topic of the reference."""
    for _, source in modules():
      text = source if self.variant == "code" else docstrings(parse(source))
      if text.strip():
        yield text
    if self.variant == "docs":
      yield from _topics()


def modules() -> Iterator[tuple[str, str]]:
  """(dotted name, source) of modules, in an order no file system decides."""
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  found = []
  for folder, folders, names in os.walk(root):
    folders[:] = [name for name in folders if name not in _SKIPPED]
    found += [pathlib.Path(folder, n) for n in names if n.endswith(".py")]
  inside = {p.relative_to(root).as_posix(): p for p in found}
  for name, path in sorted(inside.items()):
    try:
      with tokenize.open(path) as f:
        source = f.read()
    except (SyntaxError, UnicodeDecodeError):
      continue  # the library holds a few files broken on purpose
    dotted = name.removesuffix(".py").removesuffix("/__init__")
    yield dotted.replace("/", "."), source


def parse(source: str) -> ast.Module:
  """The tree of a module; an empty one where it is broken."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # about the library's own escapes
      return ast.parse(source)
  except SyntaxError:
    return ast.Module([], [])


def docstrings(tree: ast.Module) -> str:
  """Every signature with its docstring, in the order of the file."""
  parts = []
  for node in statements(tree):
    if not isinstance(node, _DOCUMENTED):
      continue
    text = ast.get_docstring(node, clean=True)
    if not text:
      continue
    if isinstance(node, ast.ClassDef):
      text = f"class {node.name}:\n{text}"
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      text = f"def {node.name}({ast.unparse(node.args)}):\n{text}"
    parts.append(text)
  return "\n\n".join(parts)


def statements(node: ast.AST) -> Iterator[ast.AST]:
  """A node and the statements in it; expressions hold no docstring."""
  yield node
  for name in ("body", "handlers", "orelse", "finalbody", "cases"):
    for child in getattr(node, name, ()):
      yield from statements(child)


def _topics() -> Iterator[str]:
  """The language reference: a dict of texts, in `pydoc_data/topics.py`."""
  path = pathlib.Path(sysconfig.get_path("stdlib")) / "pydoc_data/topics.py"
  if not path.exists():
    return
  for node in ast.parse(path.read_text(encoding="utf-8")).body:
    value = getattr(node, "value", None)
    if isinstance(value, ast.Dict):
      for _, text in sorted(ast.literal_eval(value).items()):
        yield inspect.cleandoc(text)
