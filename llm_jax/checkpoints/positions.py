"""Where a source stands, beside the arrays of a checkpoint.

JSON, and the arrays that it may hold in a file of their own: most sources are
a number or two, but what a policy has drawn cannot be drawn again.
"""

import json
import math
import pathlib
from typing import Any

import numpy as np

from llm_jax import storage

_JSON, _ARRAYS = "position.json", "position.npz"
_MARK = "array in position.npz"


def write(
  folder: pathlib.Path, position: dict[str, Any], loss: float | None
) -> None:
  """Writes nested dicts of JSON values and numpy arrays, and a loss."""
  arrays: dict[str, np.ndarray] = {}

  def plain(value: Any, name: str) -> Any:
    if isinstance(value, dict):
      return {
        k: plain(v, f"{name}/{k}" if name else k) for k, v in value.items()
      }
    if isinstance(value, np.ndarray):
      arrays[name] = value
      return {_MARK: name}
    return value

  about = {"position": plain(position, ""), "loss": loss}
  if arrays:
    with (folder / _ARRAYS).open("wb") as f:
      np.savez(f, **arrays)  # type: ignore[arg-type]
  storage.write(folder / _JSON, json.dumps(about).encode())


def read(folder: pathlib.Path) -> dict[str, Any]:
  """What was written."""
  arrays: dict[str, np.ndarray] = {}
  if (folder / _ARRAYS).exists():
    with (folder / _ARRAYS).open("rb") as f, np.load(f) as saved:
      arrays = dict(saved)

  def whole(value: Any) -> Any:
    if not isinstance(value, dict):
      return value
    if _MARK in value:
      return arrays[value[_MARK]]
    return {k: whole(v) for k, v in value.items()}

  return whole(json.loads((folder / _JSON).read_text())["position"])


def loss(folder: pathlib.Path) -> float:
  """The loss that was written; nan where there is none."""
  try:
    found = json.loads((folder / _JSON).read_text())["loss"]
  except (OSError, ValueError, KeyError, TypeError):
    return math.nan
  return math.nan if found is None else float(found)
