"""Real words with tags on every machine: what names of Python code are for."""

from collections.abc import Iterator
import dataclasses
import io
import keyword
import sys
import token
import tokenize

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import stdlib
from llm_jax.data.tagged import Sentence

_PACKAGES = ("asyncio", "email", "http", "importlib", "json", "logging")
_LONGEST = 24  # characters of a word; a longer one is a long string
_FEWEST, _MOST = 4, 40  # words of a line


@dataclasses.dataclass(frozen=True)
class StdlibTags:
  """Lines of source code, as words that Python's `tokenize` cuts them into.

  A dotted name is an entity: one that is called (CALL), imported or imported
  from (MODULE), or in a definition a FUNCTION, a CLASS or a PARAMETER. Its
  first word has B-, its dots and other words I-, all else is O. A line is told
  once; a string that is long, or has several lines, is left as "...".
  """

  packages: tuple[str, ...] = field(_PACKAGES, "packages whose code is read")

  def identity(self, progress: Progress) -> str:
    """Changes with the interpreter's version and the packages."""
    del progress  # nothing to wait for
    return f"stdlib-tags-1 {' '.join(self.packages)} {sys.version}"

  def sentences(self) -> Iterator[Sentence]:
    """Lines in the order of modules, each once."""
    seen: set[tuple[str, ...]] = set()
    found = set()
    for name, source in stdlib.modules():
      package = name.partition(".")[0]
      if package not in self.packages:
        continue
      found.add(package)
      for number, words in _lines(source):
        if _FEWEST <= len(words) <= _MOST and words not in seen:
          seen.add(words)
          yield Sentence(words, tags(words), where=f"{name}:{number}")
    lacking = [p for p in self.packages if p not in found]
    if lacking:
      raise ValueError(
        f"--data.sources.N.packages={lacking[0]}: no package of this Python's"
        " standard library"
      )


def _lines(source: str) -> Iterator[tuple[int, tuple[str, ...]]]:
  """(number, words) of logical lines; none from where a source is broken."""
  words: list[str] = []
  number = 1
  try:
    for its in tokenize.generate_tokens(io.StringIO(source).readline):
      if its.type in (token.NAME, token.OP, token.NUMBER, token.STRING):
        number = number if words else its.start[0]
        is_long = len(its.string) > _LONGEST or "\n" in its.string
        words.append('"..."' if is_long else its.string)
      elif its.type == token.NEWLINE:
        yield number, tuple(words)
        words = []
  except (tokenize.TokenError, SyntaxError):
    return


def tags(words: tuple[str, ...]) -> tuple[str, ...]:
  """What each word of a line is for, by the words around it."""
  out = ["O"] * len(words)
  first = words[0]
  defines = first == "def" or words[:2] == ("async", "def")
  imports = first in ("import", "from")
  depth, i = 0, 0
  while i < len(words):
    word, before = words[i], words[i - 1] if i else ""
    depth += (word in "([{") - (word in ")]}")
    if not _is_name(word) or before == ".":
      i += 1
      continue
    end = i + 1
    while (
      end + 1 < len(words) and words[end] == "." and _is_name(words[end + 1])
    ):
      end += 2
    after = words[end] if end < len(words) else ""
    kind = ""
    if before in ("def", "class"):
      kind = "FUNCTION" if before == "def" else "CLASS"
    elif imports:
      kind = (
        "MODULE" if before in ("import", "from") or first == "import" else ""
      )
      kind = "" if before == "as" or "import" in words[1:i] else kind
    elif defines and depth == 1 and before in ("(", ",", "*", "**"):
      kind = "PARAMETER"
    elif after == "(":
      kind = "CALL"
    if kind:
      out[i:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - i - 1)]
    i = end
  return tuple(out)


def _is_name(word: str) -> bool:
  return word.isidentifier() and not keyword.iskeyword(word)
