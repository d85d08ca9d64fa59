"""Answers on disk, by whatever decided them."""

import hashlib
import json
import os
import pathlib
import threading
from typing import Any


class Memory:
  """A file for each answer, whole or not there."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def find(self, asked: Any) -> str | None:
    """The answer to a JSON value; None where there is none."""
    try:
      text = self._path(asked).read_text(encoding="utf-8")
      found = json.loads(text)
      known = found["asked"] == asked and isinstance(found["answer"], str)
      return found["answer"] if known else None
    except (OSError, ValueError, KeyError, TypeError):
      return None

  def keep(self, asked: Any, answer: str) -> None:
    """Writes an answer. OSError where it cannot be written."""
    path = self._path(asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f"{os.getpid()}.{threading.get_ident()}.partial"
    partial = path.with_name(f"{path.name}.{mine}")
    text = json.dumps({"asked": asked, "answer": answer}, indent=1)
    try:
      partial.write_text(text + "\n", encoding="utf-8")
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)

  def _path(self, asked: Any) -> pathlib.Path:
    text = json.dumps(asked, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return self._folder / name[:2] / f"{name}.json"
