"""Checkpoints in buckets that Orbax does not know.

It writes gs:// itself, each process its own part, and reads there only what a
process needs. Any other bucket gets files made on this machine, the list of
them last; they are fetched whole before they are read.
"""

import pathlib
import tempfile
import weakref

from llm_jax import storage
from llm_jax.checkpoints import listing


def needed(folder: pathlib.Path) -> bool:
  """Whether Orbax cannot write there."""
  return storage.is_remote(folder) and folder.protocol not in ("gs", "gcs")


class Stage:
  """A folder of this machine where checkpoints are made, or read."""

  def __init__(self) -> None:
    self._held: tempfile.TemporaryDirectory | None = None

  def folder(self, name: str) -> pathlib.Path:
    """An empty place for one checkpoint; the one before it is gone."""
    if self._held is None:
      self._held = tempfile.TemporaryDirectory(prefix="llm_jax-")
      weakref.finalize(self, self._held.cleanup)
    place = pathlib.Path(self._held.name) / name
    storage.remove(place)
    place.mkdir()
    return place

  def send(self, made: pathlib.Path, folder: pathlib.Path) -> None:
    """Moves a whole checkpoint into the bucket: its list comes last."""
    files = {
      p.relative_to(made).as_posix(): p for p in made.rglob("*") if p.is_file()
    }
    last = {listing.NAME: files.pop(listing.NAME)}
    storage.send(files, folder)
    storage.send(last, folder)
    storage.remove(made)

  def fetch(self, folder: pathlib.Path) -> pathlib.Path:
    """A checkpoint of the bucket, on this machine."""
    here = self.folder(folder.name)
    storage.fetch(folder, here)
    return here
