"""Text in files: .txt, .jsonl, .jsonl.gz and .parquet."""

from collections.abc import Iterator
import dataclasses
import glob
import gzip
import hashlib
import json
import pathlib
import re
from typing import Any, Literal
import zlib

from llm_jax.config import field
from llm_jax.contracts import Progress

ENDINGS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
_CHUNK = 2**24  # bytes read at once


@dataclasses.dataclass(frozen=True)
class Files:
  """Rows of .jsonl and .parquet are documents; so is a .txt, or its parts."""

  paths: tuple[str, ...] = field((), "files, folders or globs")
  text_field: str = field("text", "name of the text in a row")
  split_by: Literal["file", "paragraph", "line"] = field(
    "file", "what a document of a .txt is; paragraphs end at an empty line"
  )

  def identity(self, progress: Progress) -> str:
    """Changes with any byte of any file; not with where the files are."""
    digest = hashlib.blake2b(digest_size=16)
    for path in progress(self.found(), label="looking at files"):
      one = hashlib.blake2b("".join(_ending(path)).encode())
      try:
        with path.open("rb") as f:
          while chunk := f.read(_CHUNK):
            one.update(chunk)
      except OSError as e:
        raise ValueError(f"{path}: cannot be read ({e.strerror})") from e
      digest.update(one.digest())
    return f"files-2 {self.text_field} {self.split_by} {digest.hexdigest()}"

  def found(self) -> list[pathlib.Path]:
    """All files meant, sorted. ValueError where a path finds none."""
    if not self.paths:
      raise ValueError("--data.sources.N.paths: no file, folder or glob given")
    files: dict[pathlib.Path, pathlib.Path] = {}  # one file may have two names
    for given in self.paths:
      path = pathlib.Path(given).expanduser()
      if path.is_dir():
        new = [p for p in path.rglob("*") if _ending(p) and p.is_file()]
      elif path.exists():
        new = [path]
      else:
        names = glob.glob(str(path), recursive=True)
        new = [p for p in map(pathlib.Path, names) if _ending(p)]
      if not new:
        raise ValueError(
          f"--data.sources.N.paths={given}: no such file, or a folder or"
          f" glob without {', '.join(ENDINGS)}"
        )
      files |= {p.resolve(): p for p in new}
    for path in files.values():
      if not _ending(path):
        raise ValueError(
          f"{path}: unknown kind of file; known: {', '.join(ENDINGS)}"
        )
    return sorted(files.values())

  def documents(self) -> Iterator[str]:
    """Texts, in the order of the sorted paths.

    Raises:
      ValueError: a file that is empty, not UTF-8, of another kind, or a row
        that is broken or has no text; names the file and line.
    """
    for path in self.found():
      if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
      if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from self._jsonl(path)
      elif path.name.endswith(".parquet"):
        yield from self._parquet(path)
      else:
        yield from self._txt(path)

  def _txt(self, path: pathlib.Path) -> Iterator[str]:
    text = _decode(path.read_bytes(), str(path))
    if self.split_by == "file":
      yield text
      return
    border = r"\r?\n" if self.split_by == "line" else r"\n\s*\n"
    yield from (part for part in re.split(border, text) if part.strip())

  def _jsonl(self, path: pathlib.Path) -> Iterator[str]:
    opened: Any = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
      with opened(path, "rb") as f:
        for number, line in enumerate(f, 1):
          if line.strip():
            yield self._row(line, f"{path}:{number}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
      raise ValueError(f"{path}:{number + 1}: broken gzip file ({e})") from e

  def _row(self, line: bytes, where: str) -> str:
    try:
      row = json.loads(_decode(line, where))
    except json.JSONDecodeError as e:
      raise ValueError(f"{where}: not JSON: {e}") from e
    return self._text(row, where)

  def _parquet(self, path: pathlib.Path) -> Iterator[str]:
    from pyarrow import lib, parquet  # noqa: PLC0415  (slow to import)

    number = 0
    try:
      file = parquet.ParquetFile(path)
      names = file.schema_arrow.names
      if self.text_field not in names:
        self._text(dict.fromkeys(names), str(path))
      for batch in file.iter_batches(columns=[self.text_field]):
        for value in batch.column(0).to_pylist():
          number += 1
          yield self._text({self.text_field: value}, f"{path}: row {number}")
    except (lib.ArrowException, OSError) as e:
      raise ValueError(
        f"{path}: not a whole parquet file, after row {number} ({e})"
      ) from e

  def _text(self, row: Any, where: str) -> str:
    if not isinstance(row, dict):
      raise ValueError(f"{where}: expected an object, got {row!r:.60}")
    if self.text_field not in row:
      raise ValueError(
        f"{where}: no field --data.sources.N.text_field={self.text_field};"
        f" fields here: {', '.join(map(str, row))}"
      )
    value = row[self.text_field]
    if not isinstance(value, str):
      raise ValueError(
        f"{where}: field {self.text_field!r} is not text but {value!r:.60}"
      )
    try:
      value.encode()
    except UnicodeEncodeError as e:  # JSON can spell half a pair
      raise ValueError(
        f"{where}: character {e.start} of field {self.text_field!r} is"
        f" {value[e.start]!r}, half of a surrogate pair"
      ) from e
    return value


def _ending(path: pathlib.Path) -> list[str]:
  """The ending we know of a path, or nothing."""
  return [ending for ending in ENDINGS if path.name.endswith(ending)]


def _decode(data: bytes, where: str) -> str:
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as e:
    raise ValueError(
      f"{where}: not UTF-8: byte {e.start} is 0x{data[e.start]:02x}"
    ) from e
