"""Sources of questions about texts: SQuAD's files, tables, and TFDS."""

from collections.abc import Iterator
import dataclasses
import json
import pathlib
from typing import Any, ClassVar, Protocol

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import tables
from llm_jax.data.passage import Passage
from llm_jax.data.row_sources import FileRows, Row, TFDSRows
from llm_jax.data.tag_sources import INTO, Into

_FIELDS = ("question", "context", "answers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassageForm:
  """Which split rows are of: {id, question, context, answers, is_impossible}.

  Answers are {"text": [...], "answer_start": [...]} or a list of {"text",
  "answer_start"}; a text that has none says so by an empty list.
  """

  into: Into = field("any", INTO)

  def about(self) -> str:
    """Changes with what a row is read as."""
    return self.into

  def read(self, row: Row, where: str) -> Passage:
    """One row; ValueError names where it stands and the field."""
    for name in _FIELDS:
      if name not in row:
        raise ValueError(
          f"{where}: no field {name!r}; fields here: {', '.join(map(str, row))}"
        )
    answers = tuple(_answers(row["answers"], where))
    if row.get("is_impossible") and answers:
      raise ValueError(f"{where}: is_impossible, and has answers")
    split = "" if self.into == "any" else self.into
    question = tables.text(row, "question", where)
    context = tables.text(row, "context", where)
    given = row.get("id")
    name = where if given is None else str(given)
    try:
      return Passage(name, question, context, answers, split)
    except ValueError as e:
      raise ValueError(f"{where}: {e}") from e


def _answers(value: Any, where: str) -> Iterator[tuple[str, int]]:
  """(text, first character) of each."""
  try:
    if isinstance(value, dict):
      texts, starts = list(value["text"]), list(value["answer_start"])
    else:
      texts = [its["text"] for its in value]
      starts = [its["answer_start"] for its in value]
    found = [(str(t), int(at)) for t, at in zip(texts, starts, strict=True)]
    exact = not any(
      isinstance(at, bool) or int(at) != float(at) for at in starts
    )
    if exact and all(isinstance(t, str) for t in texts):
      yield from found
      return
  except (TypeError, ValueError, KeyError, OverflowError):
    pass
  raise ValueError(
    f"{where}: answers are {value!r:.80}, not texts, each with answer_start"
  )


class _Read:
  """Rows read one by one."""

  kind: ClassVar[str] = "passages-1"

  def passages(self: Any) -> Iterator[Passage]:
    return (self.read(row, where) for where, row in self.rows())


@dataclasses.dataclass(frozen=True)
class PassageFiles(_Read, FileRows, PassageForm):
  """SQuAD's .json, of v1.1 and v2.0, and rows of .jsonl and .parquet."""

  endings: ClassVar[tuple[str, ...]] = (".json", *tables.TABLES)

  def rows(self) -> Iterator[tuple[str, Row]]:
    """Yields (file and place, row)."""
    for path in tables.found(self.paths, self.endings):
      if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
      if tables.ending(path, self.endings) == ".json":
        yield from squad(path)
      else:
        yield from tables.rows(path)


@dataclasses.dataclass(frozen=True)
class TFDSPassages(_Read, TFDSRows, PassageForm):
  """Examples of a TFDS builder, or of a folder that it prepared."""


def squad(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  """Rows of {"data": [{"paragraphs": [{"context", "qas": [...]}]}]}.

  Raises:
    ValueError: a file of another shape.
  """
  text = tables.decode(path.read_bytes(), str(path)).removeprefix("\ufeff")
  try:
    articles = json.loads(text)["data"]
    rows = [
      (f"{path}: question {qa['id']}", {**qa, "context": paragraph["context"]})
      for article in articles
      for paragraph in article["paragraphs"]
      for qa in paragraph["qas"]
    ]
  except json.JSONDecodeError as e:
    raise ValueError(f"{path}: not JSON ({e})") from e
  except (KeyError, TypeError, RecursionError, ValueError) as e:
    raise ValueError(
      f"{path}: not of SQuAD's shape, data: paragraphs: context, qas: id,"
      f" question, answers ({type(e).__name__}: {e})"
    ) from e
  if not rows:
    raise ValueError(f"{path}: holds no question")
  yield from rows


class PassageSource(Protocol):
  """Where questions about texts come from."""

  def identity(self, progress: Progress) -> str: ...

  def passages(self) -> Iterator[Passage]: ...


@dataclasses.dataclass(frozen=True)
class Told:
  """The documents of a source."""

  source: PassageSource

  def identity(self, progress: Progress) -> str:
    """Changes with the source."""
    return f"told-1 {self.source.identity(progress)}"

  def documents(self) -> Iterator[str]:
    """Questions as JSON; ValueError where two have the same id."""
    seen = set()
    for its in self.source.passages():
      if its.id in seen:
        raise ValueError(f"question {its.id}: there are two of this id")
      seen.add(its.id)
      yield its.to_json()
