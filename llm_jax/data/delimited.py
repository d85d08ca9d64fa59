"""Tables of text: .csv, and .tsv as benchmarks have it, without quotes."""

from collections.abc import Iterator
import csv
import pathlib
from typing import Any

ENDINGS = (".csv", ".tsv")


def rows(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (file and line, row), every value a text.

  The first line names the columns.

  Raises:
    ValueError: not UTF-8, broken quotes, two columns of one name, or a row of
      more or fewer values than there are columns; names the file and line.
  """
  how: dict[str, Any] = {"strict": True}
  if path.name.endswith(".tsv"):
    how = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
  with path.open(encoding="utf-8-sig", newline="") as f:
    reader = csv.reader(f, **how)
    try:
      names = next(reader, [])
      if len(set(names)) < len(names):
        raise ValueError(f"{path}:1: two columns have one name")
      for values in reader:
        where = f"{path}:{reader.line_num}"
        if not values:
          continue  # an empty line
        if len(values) != len(names):
          raise ValueError(
            f"{where}: has {len(values)} values, and line 1 names"
            f" {len(names)} columns"
          )
        yield where, dict(zip(names, values, strict=True))
    except csv.Error as e:
      raise ValueError(f"{path}:{reader.line_num}: {e}") from e
    except UnicodeDecodeError as e:
      raise ValueError(
        f"{path}: not UTF-8, after line {reader.line_num}"
      ) from e
