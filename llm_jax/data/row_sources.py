"""Sources whose documents are rows: of tables in files, and of TFDS.

A source has another base that says how a row is read: by `about()`, which
changes with that, and by its `kind`.
"""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any, ClassVar

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import tables, tfds_source

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class FileRows:
  """Rows of .jsonl, .jsonl.gz and .parquet files, or of others as well."""

  endings: ClassVar[tuple[str, ...]] = tables.TABLES

  paths: tuple[str, ...] = field((), "files, folders or globs")

  def identity(self: Any, progress: Progress) -> str:
    """Changes with any byte of any file, and with how rows are read."""
    about = self.about()
    files = tables.found(self.paths, self.endings, progress)
    digest = tables.digest(files, self.endings, progress)
    return f"{self.kind} {about} {digest}"

  def rows(self) -> Iterator[tuple[str, Row]]:
    """Yields (file and line, row)."""
    for path in tables.found(self.paths, self.endings):
      if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
      yield from tables.rows(path)


@dataclasses.dataclass(frozen=True)
class TFDSRows:
  """Examples of a TFDS builder, or of a folder that it prepared."""

  name: str = field("", "builder's name, or the folder that it prepared")
  split: str = field("train", "its split, in TFDS's notation")
  data_dir: str | None = field(
    None, "where TFDS keeps datasets; none = default"
  )

  def identity(self: Any, progress: Progress) -> str:
    """Changes with the dataset, its version, and how rows are read."""
    del progress  # nothing to wait for
    found = tfds_source.identity(self.name, self.split, self.data_dir)
    return f"{self.kind} {self.about()} {found}"

  def rows(self) -> Iterator[tuple[str, Row]]:
    """Yields (which example, the row that it would be in a table)."""
    examples = tfds_source.examples(self.name, self.split, self.data_dir)
    for where, example in examples:
      yield where, tfds_source.plain(example, where)
