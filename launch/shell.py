"""Text for bash: settings at the top, then lines that are always the same."""

import pathlib
import shlex
from typing import Any

_HERE = pathlib.Path(__file__).parent


def script(about: str, variables: dict[str, Any], *bodies: str) -> str:
  """A whole script, which may also be pasted into a shell.

  It is one subshell: what is pasted ends that, not the shell, and is read to
  its last line before any of it runs.
  """
  parts = [assignments(variables), *bodies]
  text = "\n".join(part.strip("\n") + "\n" for part in parts)
  return f"#!/usr/bin/env bash\n# {about}\n(\nset -euo pipefail\n\n{text})\n"


def needs(*programs: str) -> str:
  """Lines that end a script, code 2, where this machine lacks a program."""
  return f"""\
for program in {" ".join(programs)}; do
  if ! command -v "$program" >/dev/null; then
    echo "launch: $program is not installed here; nothing was done" >&2
    exit 2
  fi
done
"""


def assignments(variables: dict[str, Any]) -> str:
  """name=value lines; a list becomes an array."""
  lines = []
  for name, value in variables.items():
    if isinstance(value, bool):
      value = str(value).lower()
    if isinstance(value, list | tuple):
      lines.append(f"{name}=({_wrapped(list(value))})")
    else:
      lines.append(f"{name}={shlex.quote(str(value))}")
  return "\n".join(lines) + "\n"


def body(name: str) -> str:
  """A file of this folder."""
  return (_HERE / name).read_text(encoding="utf-8")


def heredoc(path: str, word: str, text: str) -> str:
  """Lines that write `text` to the file `path`, an expression of bash."""
  assert word not in text.splitlines()
  return f"cat >{path} <<'{word}'\n{text.rstrip()}\n{word}\n"


def _wrapped(words: list[str]) -> str:
  """On one line, or an option a line where it is long."""
  # Commas look as if they were to part the words of an array.
  quoted = [_quoted(word) for word in words]
  line = " ".join(quoted)
  if len(line) < 60:
    return line
  lines: list[str] = []
  for word in quoted:
    is_flag = word.lstrip("'").startswith("--")
    if lines and not is_flag and not lines[-1].lstrip("'").startswith("--"):
      lines[-1] += f" {word}"
    else:
      lines.append(word)
  return "\n  " + "\n  ".join(lines) + "\n"


def _quoted(word: str) -> str:
  plain = shlex.quote(word)
  return f"'{word}'" if plain == word and "," in word else plain
