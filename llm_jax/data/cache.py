"""Folders made once, whole or not at all."""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import uuid

from llm_jax import storage


def folder(given: str | None) -> pathlib.Path:
  """Where prepared data is kept between runs; made if it is not there."""
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  path = storage.local(given or f"{base}/llm_jax", "data.cache")
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise ValueError(
      f"--data.cache={path}: cannot be made ({e.strerror}); name a folder"
      " that can be written"
    ) from e
  return path


def fingerprint(*parts: str) -> str:
  """A short name for some content."""
  joined = "\x00".join(parts).encode()
  return hashlib.blake2b(joined, digest_size=10).hexdigest()


def once(final: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
  """Has `make` fill a folder, unless it is there.

  It is filled under another name and renamed when whole. Of several processes
  one works and the others wait; what a killed one left is swept away.
  """
  if final.exists():
    return
  final.parent.mkdir(parents=True, exist_ok=True)
  with _alone(final) as is_alone:
    if final.exists():
      return
    if is_alone:
      for left in final.parent.glob(f"{final.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
      make(partial)
      os.replace(partial, final)
    except OSError:
      if not final.exists():  # another machine may have been first
        raise
    finally:
      shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _alone(final: pathlib.Path) -> Iterator[bool]:
  """Waits for other processes; False where the file system has no locks."""
  with final.with_name(f"{final.name}.lock").open("w") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX)
    except OSError:
      yield False
    else:
      yield True
