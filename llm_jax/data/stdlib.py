"""Real text on every machine: the running interpreter's standard library."""

import ast
from collections.abc import Iterator
import dataclasses
import inspect
import pathlib
import sys
import sysconfig
import tokenize
from typing import Literal

from llm_jax.config import field

# Not the library's own text: its tests, other people's packages, caches.
_SKIPPED = {"test", "tests", "site-packages", "__pycache__", "idle_test"}


@dataclasses.dataclass(frozen=True)
class Stdlib:
  """Docstrings and the language reference (2 MB), or the source (11 MB)."""

  variant: Literal["docs", "code"] = field(
    "docs", "docstrings and language reference, or source code"
  )

  def identity(self) -> str:
    """Changes with the interpreter's version."""
    return f"stdlib-2 {self.variant} {sys.version}"

  def documents(self) -> Iterator[str]:
    """One document a module, then one a topic of the reference."""
    for path in _modules():
      try:
        with tokenize.open(path) as f:
          source = f.read()
      except (SyntaxError, UnicodeDecodeError):
        continue  # the library holds a few files broken on purpose
      if self.variant == "code":
        if source.strip():
          yield source
        continue
      text = _docstrings(source)
      if text:
        yield text
    if self.variant == "docs":
      yield from _topics()


def _modules() -> list[pathlib.Path]:
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  found = (p.relative_to(root) for p in root.rglob("*.py"))
  kept = (
    p
    for p in found
    if not _SKIPPED.intersection(p.parts) and p.parts[0] != "pydoc_data"
  )
  return [root / p for p in sorted(kept, key=lambda p: p.as_posix())]


def _docstrings(source: str) -> str:
  """Every signature with its docstring, in the order of the file."""
  try:
    tree = ast.parse(source)
  except SyntaxError:
    return ""
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  parts = []
  for node in ast.walk(tree):
    if not isinstance(node, kinds):
      continue
    text = ast.get_docstring(node, clean=True)
    if not text:
      continue
    if isinstance(node, ast.ClassDef):
      text = f"class {node.name}:\n{text}"
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      text = f"def {node.name}({ast.unparse(node.args)}):\n{text}"
    parts.append((getattr(node, "lineno", 0), text))
  return "\n\n".join(text for _, text in sorted(parts, key=lambda p: p[0]))


def _topics() -> Iterator[str]:
  path = pathlib.Path(sysconfig.get_path("stdlib")) / "pydoc_data/topics.py"
  if not path.exists():
    return
  tree = ast.parse(path.read_text(encoding="utf-8"))
  for node in tree.body:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
      for _, text in sorted(ast.literal_eval(node.value).items()):
        yield inspect.cleandoc(text)
