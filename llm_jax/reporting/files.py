"""Small files of a run folder: whole or not there."""

import json
import math
import pathlib
from typing import Any

from llm_jax import storage


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file in one go: a reader sees the old one or the new one.

  JSON has no numbers that are not finite: they become "nan", "inf", "-inf".
  """
  write_text(path, json.dumps(_plain(value), indent=1) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file in one go."""
  storage.write(path, text.encode())


def read_json(path: pathlib.Path) -> Any:
  """A JSON file's value; None where there is none. ValueError if broken."""
  try:
    return json.loads(storage.read(path).decode())
  except FileNotFoundError:
    return None
  except ValueError as e:
    raise ValueError(f"{path}: not JSON: {e}") from e


class Rows:
  """metrics.jsonl: one object a logged step, floats at full precision.

  Numbers that are not finite are strings, as in `write_json`.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path

  def keep_until(self, step: int) -> None:
    """Drops rows after `step`, and a last line cut short."""
    if self._path.exists():
      kept = [r for r in self.read() if r["step"] <= step]
      write_text(self._path, "".join(_line(r) for r in kept))

  def append(self, row: dict[str, Any]) -> None:
    """Writes one row, and sees it to the file."""
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open("a", encoding="utf-8") as f:
      f.write(_line(row))

  def read(self) -> list[dict[str, Any]]:
    """All whole rows."""
    rows: list[dict[str, Any]] = []
    if not self._path.exists():
      return rows
    for line in self._path.read_bytes().splitlines():
      try:
        row = json.loads(line)
      except ValueError:
        continue  # the writer, or the machine, was stopped in the middle of it
      if isinstance(row, dict):
        rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
  return json.dumps(_plain(row)) + "\n"


def _plain(x: Any) -> Any:
  if isinstance(x, dict):
    return {k: _plain(v) for k, v in x.items()}
  if isinstance(x, list | tuple):
    return [_plain(v) for v in x]
  return str(x) if isinstance(x, float) and not math.isfinite(x) else x
