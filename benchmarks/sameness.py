"""What a finished run left, and where two runs differ."""

import hashlib
import json
import pathlib
from typing import Any

TIMINGS = ("tokens_per_second", "mfu")


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of metrics.jsonl, a last one cut short left out."""
  try:
    text = (folder / "metrics.jsonl").read_text()
  except FileNotFoundError:
    return []
  return [json.loads(line) for line in text.split("\n")[:-1]]


def content(folder: pathlib.Path) -> dict[str, Any]:
  """Rows without timings, and a digest of each array and small file."""
  found: dict[str, Any] = {
    "rows": [
      {k: v for k, v in row.items() if k not in TIMINGS} for row in rows(folder)
    ]
  }
  for name, array in arrays(folder).items():
    about = f"{array.dtype} {array.shape} "
    found[f"array {name}"] = about + _digest(array.tobytes())
  for part in ("tokenizer", "samples"):
    for path in sorted((folder / part).glob("*")):
      if not path.name.endswith(".partial"):
        found[f"{part}/{path.name}"] = _digest(path.read_bytes())
  return found


def arrays(folder: pathlib.Path) -> dict[str, Any]:
  """Every array of the last checkpoint, as it lies on the disk."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  last = max(p.parent for p in folder.glob("checkpoints/*/files.json"))
  handler = ocp.PyTreeCheckpointHandler()
  with ocp.Checkpointer(handler) as reader:
    tree = reader.metadata(last / "arrays").item_metadata.tree
    arguments = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
    )
    found = reader.restore(
      last / "arrays", args=ocp.args.PyTreeRestore(restore_args=arguments)
    )
  return {f"{last.name}/{k}": np.asarray(v) for k, v in found.items()}


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
  """One line for each thing that is not the same to the last bit."""
  lines = []
  if len(wanted["rows"]) != len(found["rows"]):
    lines.append(f"{len(wanted['rows'])} rows and {len(found['rows'])}")
  for a, b in zip(wanted["rows"], found["rows"], strict=False):
    if a != b:
      lines.append(f"row {a} and {b}")
      break
  for name in sorted(wanted.keys() | found.keys() - {"rows"}):
    if name != "rows" and wanted.get(name) != found.get(name):
      lines.append(f"{name}: {wanted.get(name)} and {found.get(name)}")
  return lines


def _digest(data: bytes) -> str:
  return hashlib.blake2b(data, digest_size=12).hexdigest()
