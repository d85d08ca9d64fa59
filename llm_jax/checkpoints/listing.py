"""A list of a folder's files, each with its size and checksum.

It is written last, so a folder without one was not written to its end, and a
folder that differs from it is damaged.
"""

from concurrent import futures
import json
import os
import pathlib
from typing import Any
import zlib

_NAME = "files.json"


def exists(folder: pathlib.Path) -> bool:
  """Whether the folder was once written to its end."""
  return (folder / _NAME).exists()


def write(folder: pathlib.Path) -> None:
  """Lists what is there; none of it may change afterwards."""
  files = _checksums(folder)
  write_json(folder / _NAME, {"files": files, "checksum": _of_list(files)})


def checksum(folder: pathlib.Path) -> int:
  """A number that changes with any file that was listed."""
  return json.loads((folder / _NAME).read_text(encoding="utf-8"))["checksum"]


def remove(folder: pathlib.Path) -> None:
  """Takes the list away, before the files it names are."""
  (folder / _NAME).unlink(missing_ok=True)


def damage(folder: pathlib.Path) -> str | None:
  """What is wrong with a folder, in words; None if nothing is."""
  try:
    about = json.loads((folder / _NAME).read_text(encoding="utf-8"))
    wanted = about["files"]
    if about["checksum"] != _of_list(wanted):
      return f"{_NAME} has changed"
    found = _checksums(folder)
  except FileNotFoundError:
    return "it was not written to its end"
  except OSError as e:
    return f"it cannot be read ({e})"
  except (ValueError, TypeError, KeyError):
    return f"{_NAME} is broken"
  for name, (size, crc) in wanted.items():
    if name not in found:
      return f"{name} is missing"
    if found[name][0] != size:
      return f"{name} has {found[name][0]} bytes instead of {size}"
    if found[name][1] != crc:
      return f"{name} has changed"
  return None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file that is whole or not there, and sees it to the disk."""
  partial = path.with_name(path.name + ".partial")
  with partial.open("w", encoding="utf-8") as f:
    json.dump(value, f)
    f.flush()
    os.fsync(f.fileno())
  os.replace(partial, path)


def _of_list(files: dict[str, list[int]]) -> int:
  return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _checksums(folder: pathlib.Path) -> dict[str, list[int]]:
  """File -> [size, CRC-32], several files at a time."""
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  files = [p for p in files if p.name != _NAME]
  with futures.ThreadPoolExecutor(4) as pool:
    sums = list(pool.map(_checksum, files))
  return {
    p.relative_to(folder).as_posix(): s
    for p, s in zip(files, sums, strict=True)
  }


def _checksum(path: pathlib.Path) -> list[int]:
  size = crc = 0
  with path.open("rb") as f:
    while part := f.read(2**22):
      size, crc = size + len(part), zlib.crc32(part, crc)
  return [size, crc]
