"""A list of a folder's files, each with its size and checksum.

It is written last, so a folder without one was not written to its end, and a
folder that differs from it is damaged. Of what lies in a bucket nothing is read
for it: the bucket tells sizes and, where it knows them, checksums of its own.
"""

from concurrent import futures
import json
import pathlib
from typing import Any
import zlib

from llm_jax import storage

NAME = "files.json"


def exists(folder: pathlib.Path) -> bool:
  """Whether the folder was once written to its end."""
  return (folder / NAME).exists()


def write(folder: pathlib.Path) -> None:
  """Lists what is there; none of it may change afterwards."""
  files = _checksums(folder)
  about = {"files": files, "checksum": _of_list(files)}
  storage.write(folder / NAME, json.dumps(about).encode())


def checksum(folder: pathlib.Path) -> int:
  """A number that changes with any file that was listed."""
  return json.loads((folder / NAME).read_text(encoding="utf-8"))["checksum"]


def remove(folder: pathlib.Path) -> None:
  """Takes the list away, before the files it names are."""
  (folder / NAME).unlink(missing_ok=True)


def damage(folder: pathlib.Path) -> str | None:
  """What is wrong with a folder, in words; None if nothing is."""
  try:
    about = json.loads((folder / NAME).read_text(encoding="utf-8"))
    wanted = about["files"]
    if about["checksum"] != _of_list(wanted):
      return f"{NAME} has changed"
    found = _checksums(folder)
  except FileNotFoundError:
    return "it was not written to its end"
  except OSError as e:
    return f"it cannot be read ({e})"
  except (ValueError, TypeError, KeyError):
    return f"{NAME} is broken"
  for name, (size, crc) in wanted.items():
    if name not in found:
      return f"{name} is missing"
    if found[name][0] != size:
      return f"{name} has {found[name][0]} bytes instead of {size}"
    its = found[name][1]
    # A copy out of a bucket, or into one, has only its size to show.
    if type(its) is type(crc) and its != crc:
      return f"{name} has changed"
  return None


def _of_list(files: dict[str, list[Any]]) -> int:
  return zlib.crc32(json.dumps(files, sort_keys=True).encode())


def _checksums(folder: pathlib.Path) -> dict[str, list[Any]]:
  """File -> [size, CRC-32], several files at a time."""
  if storage.is_remote(folder):
    found = {k: [*about] for k, about in storage.listed(folder).items()}
    found.pop(NAME, None)
    return found
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  files = [p for p in files if p.name != NAME]
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
