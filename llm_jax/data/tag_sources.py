"""Sources of words with tags: tables, columns in files, and TFDS."""

from collections.abc import Iterator
import dataclasses
from typing import Any, ClassVar, Literal, Protocol

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import tables
from llm_jax.data.row_sources import FileRows, Row, TFDSRows
from llm_jax.data.tagged import Sentence

Into = Literal["any", "train", "validation", "test"]
INTO = (
  "the split that its rows are of; any = by a hash of the text, in shares as"
  " --data.validation and --data.test"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TagForm:
  """Which columns of a row are read, and which split it is of."""

  words: str = field("words", "column of the words, a list")
  tags: str = field("tags", "column of their tags: a list of names or numbers")
  into: Into = field("any", INTO)

  def about(self) -> str:
    """Changes with what a row is read as."""
    return repr((self.words, self.tags, self.into))

  def read(self, row: Row, where: str) -> Sentence:
    """One row, tags without white space around them.

    ValueError names where it stands and the column.
    """
    words, tags = (
      self._list("words", row, where),
      self._list("tags", row, where),
    )
    for word in words:
      tables.whole(word, f"a word of column {self.words!r}", where)
    for tag in tags:
      if not isinstance(tag, str | int) or isinstance(tag, bool):
        raise ValueError(
          f"{where}: column {self.tags!r} has {tag!r:.60}, not the name or the"
          " number of a tag"
        )
    split = "" if self.into == "any" else self.into
    names = tuple(str(tag).strip() for tag in tags)
    return Sentence(tuple(words), names, split, where)

  def _list(self, setting: str, row: Row, where: str) -> list[Any]:
    name: str = getattr(self, setting)
    if name not in row:
      raise ValueError(
        f"{where}: no column --data.sources.N.{setting}={name}; columns here:"
        f" {', '.join(map(str, row))}"
      )
    if not isinstance(row[name], list):
      raise ValueError(
        f"{where}: column {name!r} is {row[name]!r:.60}, not a list, one for"
        " each word"
      )
    return row[name]


class _Read:
  """Rows read one by one."""

  kind: ClassVar[str] = "tags-2"

  def sentences(self: Any) -> Iterator[Sentence]:
    return (self.read(row, where) for where, row in self.rows())


@dataclasses.dataclass(frozen=True)
class TagFiles(_Read, FileRows, TagForm):
  """Rows of .jsonl, .jsonl.gz and .parquet files, with lists in columns."""


@dataclasses.dataclass(frozen=True)
class TFDSTags(_Read, TFDSRows, TagForm):
  """Examples of a TFDS builder, or of a folder that it prepared."""


@dataclasses.dataclass(frozen=True)
class ColumnFiles:
  """A word a line, a sentence until an empty line, as CoNLL has them.

  Columns are parted by spaces and tabs; lines of "-DOCSTART-" are left out.
  """

  endings: ClassVar[tuple[str, ...]] = (".conll", ".txt", ".bio", ".iob2")

  paths: tuple[str, ...] = field((), "files, folders or globs")
  word: int = field(0, "column of the word, from 0; from the end, -1")
  tag: int = field(-1, "column of the tag, from 0; from the end, -1")
  into: Into = field("any", INTO)

  def identity(self, progress: Progress) -> str:
    """Changes with any byte of any file, and with how lines are read."""
    files = tables.found(self.paths, self.endings, progress)
    digest = tables.digest(files, self.endings, progress)
    return f"columns-2 {self.word} {self.tag} {self.into} {digest}"

  def sentences(self) -> Iterator[Sentence]:
    """ValueError names the file and line of what is no column."""
    split = "" if self.into == "any" else self.into
    for path in tables.found(self.paths, self.endings):
      text = tables.decode(path.read_bytes(), str(path)).removeprefix("\ufeff")
      pairs: list[tuple[str, str]] = []
      began = 1
      # White space and ends of lines of other kinds are part of a word.
      for number, line in enumerate([*text.split("\n"), ""], 1):
        columns = line.removesuffix("\r").replace("\t", " ").split(" ")
        columns = [*filter(None, columns)]
        if columns and columns[0] != "-DOCSTART-":
          began = began if pairs else number
          pairs.append(self._columns(columns, f"{path}:{number}"))
        elif pairs:
          words, tags = zip(*pairs, strict=True)
          yield Sentence(words, tags, split, f"{path}:{began}")
          pairs = []

  def _columns(self, columns: list[str], where: str) -> tuple[str, str]:
    found = []
    for setting in ("word", "tag"):
      at = getattr(self, setting)
      if not -len(columns) <= at < len(columns) or len(columns) < 2:
        raise ValueError(
          f"{where}: {len(columns)} columns, none of them"
          f" --data.sources.N.{setting}={at}; a word and its tag on each line"
        )
      found.append(columns[at])
    return found[0], found[1].strip()


class TagSource(Protocol):
  """Where words with tags come from."""

  def identity(self, progress: Progress) -> str: ...

  def sentences(self) -> Iterator[Sentence]: ...


@dataclasses.dataclass(frozen=True)
class Sentences:
  """The documents of a source."""

  source: TagSource

  def identity(self, progress: Progress) -> str:
    """Changes with the source."""
    return f"sentences-1 {self.source.identity(progress)}"

  def documents(self) -> Iterator[str]:
    """Sentences as JSON."""
    return (its.to_json() for its in self.source.sentences())
