"""Sources of labelled texts: tables in files, and TFDS."""

from collections.abc import Iterator
import dataclasses
from typing import Any, ClassVar, Literal, Protocol

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import delimited, tables
from llm_jax.data.example import Example, Kind, label_of
from llm_jax.data.row_sources import FileRows, Row, TFDSRows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleForm:
  """Which columns of a row are read, and which split it is of."""

  text: str = field("text", "column of the text")
  text_pair: str | None = field(
    None, "column of a second text; none = text_pair, in rows that have it"
  )
  label: str = field("label", "column of what is to be told")
  into: Literal["any", "train", "validation", "test"] = field(
    "any",
    "the split that its rows are of; any = by a hash of the text, in shares"
    " as --data.validation and --data.test",
  )

  def about(self) -> str:
    """Changes with what a row is read as."""
    settings = (self.text, self.text_pair, self.label, self.into)
    return repr(settings)

  def read(self, row: Row, where: str, kind: Kind) -> Example:
    """One row; ValueError names where it stands and the column."""
    text = tables.text(row, self._there("text", row, where), where)
    name = self.text_pair or "text_pair"
    if self.text_pair is not None:
      self._there("text_pair", row, where)
    pair = row.get(name)
    if pair is not None or self.text_pair is not None:
      pair = tables.text(row, name, where)
    name = self._there("label", row, where)
    label = label_of(row[name], kind, f"{where}: column {name!r}")
    split = "" if self.into == "any" else self.into
    return Example(text, label, pair, split)

  def _there(self, setting: str, row: Row, where: str) -> str:
    """The column of a setting, which the row has."""
    name: str = getattr(self, setting)
    if name not in row:
      raise ValueError(
        f"{where}: no column --data.sources.N.{setting}={name}; columns here:"
        f" {', '.join(map(str, row))}"
      )
    return name


class _Read:
  """Rows read one by one."""

  kind: ClassVar[str] = "examples-2"

  def examples(self: Any, kind: Kind) -> Iterator[Example]:
    """ValueError names where a row stands and its column."""
    return (self.read(row, where, kind) for where, row in self.rows())


@dataclasses.dataclass(frozen=True)
class ExampleFiles(_Read, FileRows, ExampleForm):
  """Rows of .jsonl, .jsonl.gz, .parquet, .csv and .tsv files."""

  endings: ClassVar[tuple[str, ...]] = (*tables.TABLES, *delimited.ENDINGS)


@dataclasses.dataclass(frozen=True)
class TFDSExamples(_Read, TFDSRows, ExampleForm):
  """Examples of a TFDS builder, or of a folder that it prepared."""


class ExampleSource(Protocol):
  """Where labelled texts come from."""

  def identity(self, progress: Progress) -> str: ...

  def examples(self, kind: Kind) -> Iterator[Example]: ...


@dataclasses.dataclass(frozen=True)
class Told:
  """The documents of a source, whose labels are of one kind."""

  source: ExampleSource
  kind: Kind

  def identity(self, progress: Progress) -> str:
    """Changes with the source and the kind."""
    return f"{self.kind} {self.source.identity(progress)}"

  def documents(self) -> Iterator[str]:
    """Examples as JSON."""
    return (e.to_json() for e in self.source.examples(self.kind))
