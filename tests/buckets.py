"""A bucket in this process's memory, and every moment of it."""

import contextlib
import pathlib
from unittest import mock

import pytest

upath = pytest.importorskip("upath", reason="universal_pathlib")

from fsspec.implementations import memory

URL = "memory://bucket/run"


def content(prefix="/bucket/"):
  """{name: bytes} of all objects."""
  store = memory.MemoryFileSystem.store
  return {k: v.getvalue() for k, v in store.items() if k.startswith(prefix)}


def fill(objects):
  """Makes the bucket hold these objects, and nothing else."""
  memory.MemoryFileSystem.store.clear()
  memory.MemoryFileSystem.pseudo_dirs[:] = [""]
  for name, data in objects.items():
    memory.MemoryFileSystem.store[name] = memory.MemoryFile(
      memory.MemoryFileSystem(), name, data
    )


@contextlib.contextmanager
def watched():
  """Yields a list of what the bucket holds after each change of an object.

  A process that is killed leaves one of these.
  """
  moments = []

  class Watched(dict):
    def __setitem__(self, name, value):
      super().__setitem__(name, value)
      self.note()

    def pop(self, *args):
      found = super().pop(*args)
      self.note()
      return found

    def __delitem__(self, name):
      super().__delitem__(name)
      self.note()

    def note(self):
      moments.append({k: v.getvalue() for k, v in list(self.items())})

  def put(fs, source, name, **_):  # whole at once, as buckets have it
    fs.pipe_file(name, pathlib.Path(source).read_bytes())

  store = Watched(memory.MemoryFileSystem.store)
  with (
    mock.patch.object(memory.MemoryFileSystem, "store", store),
    mock.patch.object(memory.MemoryFileSystem, "put_file", put),
  ):
    yield moments
  memory.MemoryFileSystem.store.clear()
  memory.MemoryFileSystem.store.update(store)
