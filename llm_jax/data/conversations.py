"""Sources of conversations: tables in files, and TFDS."""

from collections.abc import Iterator
import dataclasses

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import tables, tfds_source
from llm_jax.data.readers import Form


@dataclasses.dataclass(frozen=True)
class Conversations(Form):
  """Rows of .jsonl, .jsonl.gz and .parquet files."""

  paths: tuple[str, ...] = field((), "files, folders or globs")

  def identity(self, progress: Progress) -> str:
    """Changes with any byte of any file, and with how rows are read."""
    about = self.about()
    files = tables.found(self.paths, tables.TABLES)
    digest = tables.digest(files, tables.TABLES, progress)
    return f"conversations-1 {about} {digest}"

  def documents(self) -> Iterator[str]:
    """Conversations as JSON; ValueError names file, line and field."""
    for path in tables.found(self.paths, tables.TABLES):
      if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
      for where, row in tables.rows(path):
        yield self.read(row, where).to_json()


@dataclasses.dataclass(frozen=True)
class TFDSConversations(Form):
  """Examples of a TFDS builder, or of a folder that it prepared."""

  name: str = field("", "builder's name, or the folder that it prepared")
  split: str = field("train", "its split, in TFDS's notation")
  data_dir: str | None = field(
    None, "where TFDS keeps datasets; none = default"
  )

  def identity(self, progress: Progress) -> str:
    """Changes with the dataset, its version, and how rows are read."""
    del progress  # nothing to wait for
    found = tfds_source.identity(self.name, self.split, self.data_dir)
    return f"conversations-1 {self.about()} {found}"

  def documents(self) -> Iterator[str]:
    """Conversations as JSON; ValueError names example and field."""
    examples = tfds_source.examples(self.name, self.split, self.data_dir)
    for where, example in examples:
      yield self.read(tfds_source.plain(example, where), where).to_json()
