"""Files that grow, kept on this machine and sent to a bucket now and then."""

import os
import pathlib
import tempfile
import time
import weakref

from llm_jax import storage

LEAST = 30.0  # seconds between two sendings
# Times what the last one took: of all time, sending takes a fiftieth at most.
SPACING = 49


class Spool:
  """A folder to append to, and where its files belong.

  On this machine it is that very folder, and nothing is ever sent.

  Args:
    folder: where the files belong.
    names: of files there that are to go on.
  """

  def __init__(self, folder: pathlib.Path, names: tuple[str, ...] = ()):
    self.folder = self._home = folder
    self._sent: dict[str, tuple[int, int]] = {}
    self._next = time.monotonic() + LEAST
    self._is_away = storage.is_remote(folder)
    if not self._is_away:
      return
    held = tempfile.TemporaryDirectory(prefix="llm_jax-")
    weakref.finalize(self, held.cleanup)
    self.folder = pathlib.Path(held.name)
    for name in names:
      if (folder / name).exists():
        (self.folder / name).write_bytes((folder / name).read_bytes())

  def send(self) -> None:
    """Sends what is new. What the libraries raise where it cannot be."""
    if not self._is_away:
      return
    start = time.monotonic()
    new = {}
    for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
      about = os.stat(path)
      state = about.st_size, about.st_mtime_ns
      name = path.relative_to(self.folder).as_posix()
      if self._sent.get(name) != state:
        new[name] = state
    storage.send({name: self.folder / name for name in new}, self._home)
    self._sent |= new
    now = time.monotonic()
    self._next = now + max(LEAST, SPACING * (now - start))

  @property
  def is_due(self) -> bool:
    """Whether it is time to send."""
    return self._is_away and time.monotonic() >= self._next
