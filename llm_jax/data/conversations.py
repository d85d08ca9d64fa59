"""Sources of conversations: tables in files, and TFDS."""

from collections.abc import Iterator
import dataclasses
from typing import Any, ClassVar

from llm_jax.data.readers import Form
from llm_jax.data.row_sources import FileRows, TFDSRows


class _Read:
  """Rows read one by one."""

  kind: ClassVar[str] = "conversations-1"

  def documents(self: Any) -> Iterator[str]:
    """Conversations as JSON; ValueError names where a row stands and field."""
    return (self.read(row, where).to_json() for where, row in self.rows())


@dataclasses.dataclass(frozen=True)
class Conversations(_Read, FileRows, Form):
  """Conversations of .jsonl, .jsonl.gz and .parquet files."""


@dataclasses.dataclass(frozen=True)
class TFDSConversations(_Read, TFDSRows, Form):
  """Conversations of a TFDS builder, or of a folder that it prepared."""
