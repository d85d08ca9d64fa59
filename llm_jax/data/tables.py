"""Files on disk, and the rows of those that are tables."""

import codecs
from collections.abc import Iterator, Mapping, Sequence
import glob
import gzip
import hashlib
import json
import pathlib
from typing import Any
import zlib

from llm_jax import storage
from llm_jax.contracts import Progress
from llm_jax.data import delimited, downloads

TABLES = (".jsonl", ".jsonl.gz", ".parquet")
_CHUNK = 2**24  # bytes read at once


def found(
  paths: Sequence[str],
  endings: Sequence[str],
  progress: Progress | None = None,
) -> list[pathlib.Path]:
  """All files meant, sorted; those of buckets are fetched, and sorted alike.

  ValueError where a path finds none.
  """
  if not paths:
    raise ValueError("--data.sources.N.paths: no file, folder or glob given")
  files: dict[pathlib.Path, pathlib.Path] = {}  # one file may have two names
  address: dict[pathlib.Path, str] = {}  # of a fetched one
  for given in paths:
    path = pathlib.Path(given).expanduser()
    if storage.is_url(given):
      its = downloads.fetch(given, endings, "data.sources.N.paths", progress)
      new = list(its.values())
      address |= {p: name for name, p in its.items()}
    elif path.is_dir():
      new = [p for p in path.rglob("*") if ending(p, endings) and p.is_file()]
    elif path.exists():
      new = [path]
    else:
      names = glob.glob(str(path), recursive=True)
      new = [p for p in map(pathlib.Path, names) if ending(p, endings)]
    if not new:
      raise ValueError(
        f"--data.sources.N.paths={given}: no such file, or a folder or"
        f" glob without {', '.join(endings)}"
      )
    files |= {p.resolve(): p for p in new}
  for path in files.values():
    if not ending(path, endings):
      raise ValueError(
        f"{path}: unknown kind of file; known: {', '.join(endings)}"
      )
  return sorted(
    files.values(), key=lambda p: pathlib.PurePath(address.get(p) or p)
  )


def ending(path: pathlib.Path, endings: Sequence[str]) -> str:
  """The ending we know of a path, or nothing."""
  return next((e for e in endings if path.name.endswith(e)), "")


def digest(
  files: Sequence[pathlib.Path], endings: Sequence[str], progress: Progress
) -> str:
  """Changes with any byte of any file; not with where the files are."""
  all_files = hashlib.blake2b(digest_size=16)
  for path in progress(files, label="looking at files"):
    one = hashlib.blake2b(ending(path, endings).encode())
    try:
      with path.open("rb") as f:
        while chunk := f.read(_CHUNK):
          one.update(chunk)
    except OSError as e:
      raise ValueError(f"{path}: cannot be read ({e.strerror})") from e
    all_files.update(one.digest())
  return all_files.hexdigest()


def rows(
  path: pathlib.Path, only: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where it stands, row) of a table.

  Args:
    path: of a .jsonl, .jsonl.gz, .parquet, .csv or .tsv.
    only: fields that are wanted; a table without one of them is read whole.

  Raises:
    ValueError: a file that is broken, or a row that is no object; names the
      file and line.
  """
  if path.name.endswith(".parquet"):
    yield from _parquet(path, only)
  elif ending(path, delimited.ENDINGS):
    yield from delimited.rows(path)
  else:
    yield from _jsonl(path)


def decode(data: bytes, where: str) -> str:
  """Text of UTF-8; ValueError where it is not."""
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as e:
    raise ValueError(
      f"{where}: not UTF-8: byte {e.start} is 0x{data[e.start]:02x}"
    ) from e


def text(row: Mapping[str, Any], name: str, where: str) -> str:
  """The text in a field of a row, which has it; ValueError where it is none."""
  return whole(row[name], f"field {name!r}", where)


def whole(value: Any, what: str, where: str) -> str:
  """The value, which must be Unicode text."""
  if not isinstance(value, str):
    raise ValueError(f"{where}: {what} is not text but {value!r:.60}")
  try:
    value.encode()
  except UnicodeEncodeError as e:  # JSON can spell half a pair
    raise ValueError(
      f"{where}: character {e.start} of {what} is"
      f" {value[e.start]!r}, half of a surrogate pair"
    ) from e
  return value


def _jsonl(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  opened: Any = gzip.open if path.name.endswith(".gz") else open
  number = 0
  try:
    with opened(path, "rb") as f:
      for number, line in enumerate(f, 1):
        if line.strip():
          where = f"{path}:{number}"
          yield where, _object(line, where)
  except (gzip.BadGzipFile, EOFError, zlib.error) as e:
    raise ValueError(f"{path}:{number + 1}: broken gzip file ({e})") from e


def _object(line: bytes, where: str) -> dict[str, Any]:
  said = decode(line.removeprefix(codecs.BOM_UTF8), where)
  try:
    row = json.loads(said)
  except json.JSONDecodeError as e:  # its own "line 1" is not the file's
    raise ValueError(f"{where}: not JSON: {e.msg}, character {e.pos}") from e
  except (ValueError, RecursionError) as e:  # too many digits, or too deep
    raise ValueError(f"{where}: not JSON: {e}") from e
  if not isinstance(row, dict):
    raise ValueError(f"{where}: expected an object, got {row!r:.60}")
  return row


def _parquet(
  path: pathlib.Path, only: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
  from pyarrow import lib, parquet  # noqa: PLC0415  (slow to import)

  number = 0
  try:
    file = parquet.ParquetFile(path)
    has_all = set(only) <= set(file.schema_arrow.names)
    for batch in file.iter_batches(
      columns=list(only) if only and has_all else None
    ):
      for row in batch.to_pylist():
        number += 1
        yield f"{path}: row {number}", row
  except (lib.ArrowException, OSError) as e:
    raise ValueError(
      f"{path}: not a whole parquet file, after row {number} ({e})"
    ) from e
