"""Files of buckets, copied once into the cache of this machine."""

from collections.abc import Sequence
from concurrent import futures
import pathlib

from llm_jax import storage
from llm_jax.contracts import Progress
from llm_jax.data import cache

_AT_ONCE = 8


def fetch(
  given: str, endings: Sequence[str], flag: str, progress: Progress | None
) -> dict[str, pathlib.Path]:
  """{address: the file here} of what an address means.

  A copy is kept under the address and the version of what is there, so that
  one that changes is fetched anew.

  Args:
    given: a file, a folder or a glob.
    endings: of the files wanted of a folder or a glob.
    flag: that gave it, for errors.
    progress: shows a bar.

  Raises:
    ValueError: it cannot be read.
  """
  cached = cache.folder(None) / "downloads"
  where = storage.path(given, flag)
  try:
    found = _meant(where, endings)
    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
      here = pool.map(lambda file: _copy(file, cached), found)
      if progress is not None:
        here = progress(here, len(found), label="fetching files")
      return dict(zip(map(str, found), here, strict=True))
  except Exception as e:  # each library has kinds of its own
    said = storage.reason(e)
    raise ValueError(f"--{flag}={given}: cannot be read ({said})") from e


def _meant(where: pathlib.Path, endings: Sequence[str]) -> list[pathlib.Path]:
  """The files of an address, by name."""
  if where.is_file():
    return [where]
  if where.is_dir():
    found = [where / name for name in storage.listed(where)]
  else:
    names = sorted(where.fs.glob(where.path))
    start = f"{where.protocol}://"
    found = [storage.path(start + name.lstrip("/")) for name in names]
  return [p for p in found if p.name.endswith(tuple(endings))]


def _copy(file: pathlib.Path, cached: pathlib.Path) -> pathlib.Path:
  folder = cached / cache.fingerprint(str(file), file.fs.ukey(file.path))

  def make(partial: pathlib.Path) -> None:
    file.fs.get_file(file.path, str(partial / file.name))

  cache.once(folder, make)
  return folder / file.name
