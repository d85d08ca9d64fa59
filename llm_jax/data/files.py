"""Text in files: .txt, .jsonl, .jsonl.gz and .parquet."""

from collections.abc import Iterator
import dataclasses
import pathlib
import re
from typing import Literal

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import tables

ENDINGS = (".txt", *tables.TABLES)


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
    files = tables.found(self.paths, ENDINGS, progress)
    digest = tables.digest(files, ENDINGS, progress)
    return f"files-2 {self.text_field} {self.split_by} {digest}"

  def documents(self) -> Iterator[str]:
    """Texts, in the order of the sorted paths.

    Raises:
      ValueError: a file that is empty, not UTF-8, of another kind, or a row
        that is broken or has no text; names the file and line.
    """
    for path in tables.found(self.paths, ENDINGS):
      if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
      if tables.ending(path, tables.TABLES):
        yield from self._table(path)
      else:
        yield from self._txt(path)

  def _txt(self, path: pathlib.Path) -> Iterator[str]:
    text = tables.decode(path.read_bytes(), str(path))
    if self.split_by == "file":
      yield text
      return
    border = r"\r?\n" if self.split_by == "line" else r"\n\s*\n"
    yield from (part for part in re.split(border, text) if part.strip())

  def _table(self, path: pathlib.Path) -> Iterator[str]:
    for where, row in tables.rows(path, [self.text_field]):
      if self.text_field not in row:
        raise ValueError(
          f"{where}: no field --data.sources.N.text_field={self.text_field};"
          f" fields here: {', '.join(map(str, row))}"
        )
      yield tables.text(row, self.text_field, where)
