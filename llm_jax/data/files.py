"""Text in files: .txt, .jsonl, .jsonl.gz and .parquet."""

from collections.abc import Iterator
import dataclasses
import glob
import gzip
import hashlib
import json
import pathlib
from typing import Any

from llm_jax.config import field

ENDINGS = (".txt", ".jsonl", ".jsonl.gz", ".parquet")


@dataclasses.dataclass(frozen=True)
class Files:
  """A .txt file is one document; of the others, each row is one."""

  paths: tuple[str, ...] = field((), "files, folders or globs")
  text_field: str = field("text", "name of the text in a row")

  def identity(self) -> str:
    """Changes with any byte of any file."""
    digest = hashlib.blake2b(digest_size=16)
    for path in self.found():
      with path.open("rb") as f:
        digest.update(hashlib.file_digest(f, "blake2b").digest())
    return f"files-1 {self.text_field} {digest.hexdigest()}"

  def found(self) -> list[pathlib.Path]:
    """All files meant, sorted. ValueError where a path finds none."""
    if not self.paths:
      raise ValueError("--data.sources.N.paths: no file, folder or glob given")
    files: set[pathlib.Path] = set()
    for given in self.paths:
      path = pathlib.Path(given).expanduser()
      if path.is_dir():
        new = {p for p in path.rglob("*") if p.name.endswith(ENDINGS)}
      elif path.exists():
        new = {path}
      else:
        new = {
          pathlib.Path(p)
          for p in glob.glob(str(path), recursive=True)
          if p.endswith(ENDINGS)
        }
      if not new:
        raise ValueError(
          f"--data.sources.N.paths={given}: no such file, or a folder or"
          f" glob without {', '.join(ENDINGS)}"
        )
      files |= new
    return sorted(files)

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
      elif path.name.endswith(".txt"):
        yield _decode(path.read_bytes(), str(path))
      else:
        raise ValueError(
          f"{path}: unknown kind of file; known: {', '.join(ENDINGS)}"
        )

  def _jsonl(self, path: pathlib.Path) -> Iterator[str]:
    opened: Any = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
      with opened(path, "rb") as f:
        for number, line in enumerate(f, 1):
          if line.strip():
            yield self._row(line, f"{path}:{number}")
    except (gzip.BadGzipFile, EOFError) as e:
      raise ValueError(f"{path}:{number + 1}: broken gzip file ({e})") from e

  def _row(self, line: bytes, where: str) -> str:
    try:
      row = json.loads(_decode(line, where))
    except json.JSONDecodeError as e:
      raise ValueError(f"{where}: not JSON: {e}") from e
    return self._text(row, where)

  def _parquet(self, path: pathlib.Path) -> Iterator[str]:
    from pyarrow import lib, parquet  # noqa: PLC0415  (slow to import)

    try:
      file = parquet.ParquetFile(path)
    except (lib.ArrowException, OSError) as e:
      raise ValueError(f"{path}: not a parquet file ({e})") from e
    names = file.schema_arrow.names
    if self.text_field not in names:
      self._text({n: None for n in names}, str(path))
    number = 0
    for batch in file.iter_batches(columns=[self.text_field]):
      for value in batch.column(0).to_pylist():
        number += 1
        yield self._text({self.text_field: value}, f"{path}: row {number}")

  def _text(self, row: Any, where: str) -> str:
    names = ", ".join(map(str, row)) if isinstance(row, dict) else None
    if names is None:
      raise ValueError(f"{where}: expected an object, got {row!r:.60}")
    if self.text_field not in row:
      raise ValueError(
        f"{where}: no field --data.sources.N.text_field={self.text_field};"
        f" fields here: {names}"
      )
    if not isinstance(row[self.text_field], str):
      raise ValueError(
        f"{where}: field {self.text_field!r} is not text but"
        f" {row[self.text_field]!r:.60}"
      )
    return row[self.text_field]


def _decode(data: bytes, where: str) -> str:
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError as e:
    raise ValueError(
      f"{where}: not UTF-8: byte {e.start} is 0x{data[e.start]:02x}"
    ) from e
