"""Paths: of this machine, and of buckets (gs://, s3://), used alike.

What a bucket holds are objects: each is put whole or not at all, none can be
appended to or locked, and folders are but parts of their names. Credentials,
endpoints and retries are those of the libraries, gcsfs and s3fs.
"""

from collections.abc import Iterator
import contextlib
import importlib
import logging
import os
import pathlib
import re
import shutil
from typing import Any
import uuid

# Scheme -> the library that knows it, and what to install for it.
_LIBRARIES = {
  "gs": ("gcsfs", "llm_jax[gcs]"),
  "s3": ("s3fs", "llm_jax[s3]"),
  "memory": ("fsspec", "llm_jax[gcs]"),  # of this process, for tests
}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_url(given: Any) -> bool:
  """Whether it is the address of a bucket, and no path of this machine."""
  return isinstance(given, str) and _URL.match(given) is not None


def path(given: str | os.PathLike[str], flag: str = "") -> pathlib.Path:
  """The path meant: pathlib's own, or in a bucket one with its methods.

  Args:
    given: a path or an address; a path is itself.
    flag: that gave it, for errors.

  Raises:
    ValueError: another kind of address, its library is not installed, or the
      home of nobody who is known.
  """
  if not is_url(given):
    # Only strings are turned into paths: one in a bucket is no PathLike.
    return of_home(given, flag) if isinstance(given, str) else given  # type: ignore[return-value]
  assert isinstance(given, str)
  scheme, said = given.partition("://")[0], given
  if flag:
    said = f"--{flag}={given}"
  if scheme not in _LIBRARIES:
    raise ValueError(
      f"{said}: neither a path of this machine nor gs://BUCKET/... nor"
      " s3://BUCKET/..."
    )
  library, extra = _LIBRARIES[scheme]
  try:
    import upath  # noqa: PLC0415  (only where there is a bucket)

    importlib.import_module(library)
  except ModuleNotFoundError as e:
    raise ValueError(
      f"{said}: {e.name} is not installed; pip install '{extra}'"
    ) from e
  # What it raises in the end is told in a line; each try before it is not.
  logging.getLogger(library).setLevel(logging.CRITICAL)
  # Listings change under us: Orbax and other hosts write there, too.
  found: Any = upath.UPath(given, use_listings_cache=False)
  return found


def local(given: str, flag: str) -> pathlib.Path:
  """A path of this machine; ValueError where one in a bucket is given."""
  if is_url(given):
    raise ValueError(
      f"--{flag}={given}: must be on this machine, not in a bucket"
    )
  return of_home(given, flag)


def of_home(given: str, flag: str) -> pathlib.Path:
  """A path of this machine, where "~" and "~NAME" are homes.

  Raises:
    ValueError: the home of nobody who is known.
  """
  try:
    return pathlib.Path(given).expanduser()
  except RuntimeError as e:
    said = f"--{flag}={given}" if flag else given
    raise ValueError(f"{said}: {str(e).rstrip('.').lower()}") from e


def is_remote(path: pathlib.Path) -> bool:
  """Whether it is in a bucket."""
  return not isinstance(path, pathlib.PurePath)


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a file that is whole or not there, and sees it to the disk."""
  if is_remote(path):
    with _told(path):
      path.fs.pipe_file(path.path, data)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # Several machines may share the folder, and their process ids.
  partial = path.with_name(partial_name(path.name))
  try:
    with partial.open("wb") as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def read(path: pathlib.Path) -> bytes:
  """What a file holds. FileNotFoundError without one, OSError otherwise."""
  with _told(path):
    return path.read_bytes()


def remove(folder: pathlib.Path) -> None:
  """Takes a file, or a folder with all that it holds, away if it is there."""
  if not is_remote(folder) and folder.is_file():
    folder.unlink()
  elif not is_remote(folder):
    shutil.rmtree(folder, ignore_errors=True)
  elif _files(folder):
    with _told(folder):
      folder.fs.rm(folder.path, recursive=True)


def listed(folder: pathlib.Path) -> dict[str, tuple[int, str | None]]:
  """{name in a bucket's folder: (bytes, checksum where the bucket has one)}."""
  return {
    name: (about["size"], about.get("crc32c"))
    for name, about in _files(folder).items()
  }


def fetch(folder: pathlib.Path, into: pathlib.Path) -> None:
  """Copies all files of a bucket's folder to this machine, side by side."""
  found = _files(folder)
  for name in found:
    (into / name).parent.mkdir(parents=True, exist_ok=True)
  there = [about["name"] for about in found.values()]
  with _told(folder):
    folder.fs.get(there, [str(into / name) for name in found])


def send(files: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
  """Copies {name: file of this machine} into a bucket's folder."""
  if files:
    there = [(folder / name).path for name in files]
    with _told(folder):
      folder.fs.put([str(file) for file in files.values()], there)


def check_writable(folder: pathlib.Path, flag: str) -> None:
  """ValueError where a bucket cannot be written, read and cleared.

  Tried with one small object, before anything is made.
  """
  if not is_remote(folder):
    return
  said = b"written to find out whether it can be"
  probe = folder / partial_name("experiment.json")
  try:
    probe.write_bytes(said)
    if probe.read_bytes() != said:
      raise OSError("what is read there is not what was written")
    probe.unlink()
  except Exception as e:  # each library has kinds of its own
    raise ValueError(
      f"--{flag}={folder}: cannot be written ({reason(e)})"
    ) from e


def partial_name(name: str) -> str:
  """Of a file that is being written, or that a killed process left."""
  return f"{name}.{uuid.uuid4().hex}.partial"


def reason(error: BaseException) -> str:
  """What a library says of a failure, in a line."""
  kind, said = type(error).__name__, " ".join(str(error).split())
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if isinstance(error, FileNotFoundError):
    return f"no such bucket or object: {said}"
  if type(error) is OSError and said:
    return said
  return f"{kind}: {said}" if said else kind


def is_of_library(error: BaseException) -> bool:
  """Whether a library of buckets, and no line of ours, has raised it."""
  theirs = ("gcsfs", "s3fs", "google", "botocore", "aiobotocore", "aiohttp")
  kinds = [kind.__module__.partition(".")[0] for kind in type(error).__mro__]
  return any(kind in theirs for kind in kinds)


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
  """Whatever a library of buckets raises is an OSError that names the path."""
  try:
    yield
  except Exception as e:
    if not is_remote(path) or isinstance(e, FileNotFoundError):
      raise
    raise OSError(f"{path}: {reason(e)}") from e


def _files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  """{name in a bucket's folder: what the bucket says of it}, at any depth."""
  start = len(folder.path.rstrip("/")) + 1
  with _told(folder):
    found = folder.fs.find(folder.path, detail=True)
  return {
    name[start:]: about
    for name, about in sorted(found.items())
    if about.get("type") != "directory" and not name.endswith("/")
  }
