"""Sources of preferences: tables in files, and TFDS."""

from collections.abc import Iterable, Iterator
import dataclasses
from typing import Any, ClassVar

from llm_jax.data.preference import Preference
from llm_jax.data.preference_readers import PreferenceForm
from llm_jax.data.row_sources import FileRows, TFDSRows


class _Read:
  """Rows read one by one, what several labellers say as one."""

  kind: ClassVar[str] = "preferences-1"

  def documents(self: Any) -> Iterator[str]:
    """Preferences as JSON; ValueError names where a row stands and field."""
    found = ((where, self.read(row, where)) for where, row in self.rows())
    return (p.to_json() for p in gathered(found))


@dataclasses.dataclass(frozen=True)
class PreferenceFiles(_Read, FileRows, PreferenceForm):
  """Preferences of .jsonl, .jsonl.gz and .parquet files."""


@dataclasses.dataclass(frozen=True)
class TFDSPreferences(_Read, TFDSRows, PreferenceForm):
  """Preferences of a TFDS builder, or of a folder that it prepared."""


def gathered(
  rows: Iterable[tuple[str, Preference]],
) -> Iterator[Preference]:
  """Judgements of the same completions by several labellers as one.

  Those whose labeller is not known are passed on; the others come after them,
  in the order of their first rows, as the whole source has to be seen.

  Raises:
    ValueError: a labeller judges the same twice.
  """
  found: dict[tuple, Preference] = {}
  for where, new in rows:
    if not new.labellers:
      yield new
      continue
    about = (new.prompt, tuple(sorted(new.completions)), new.kind)
    old = found.get(about)
    if old is None:
      found[about] = new
      continue
    for name in new.labellers:
      if name in old.labellers:
        raise ValueError(
          f"{where}: labeller {name!r} judges these completions twice"
        )
    found[about] = _both(old, new)
  yield from found.values()


def _both(old: Preference, new: Preference) -> Preference:
  """Judgements of two as one; a margin is the labellers' mean."""
  order = [new.completions.index(c) for c in old.completions]
  values = tuple(tuple(v[i] for i in order) for v in new.values)
  margin = old.margin
  if old.margin is not None and new.margin is not None:
    n = len(old.labellers)
    other = new.margin if order == [0, 1] else -new.margin
    margin = (n * old.margin + other) / (n + 1)
  return dataclasses.replace(
    old,
    values=old.values + values,
    labellers=old.labellers + new.labellers,
    margin=margin,
  )
