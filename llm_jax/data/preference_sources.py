"""Sources of preferences: tables in files, and TFDS."""

from collections.abc import Iterable, Iterator
import dataclasses

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import tables, tfds_source
from llm_jax.data.preference import Preference
from llm_jax.data.preference_readers import PreferenceForm


@dataclasses.dataclass(frozen=True)
class PreferenceFiles(PreferenceForm):
  """Rows of .jsonl, .jsonl.gz and .parquet files."""

  paths: tuple[str, ...] = field((), "files, folders or globs")

  def identity(self, progress: Progress) -> str:
    """Changes with any byte of any file, and with how rows are read."""
    about = self.about()
    files = tables.found(self.paths, tables.TABLES)
    digest = tables.digest(files, tables.TABLES, progress)
    return f"preferences-1 {about} {digest}"

  def documents(self) -> Iterator[str]:
    """Preferences as JSON; ValueError names file, line and field."""
    return (p.to_json() for p in gathered(self._read()))

  def _read(self) -> Iterator[tuple[str, Preference]]:
    for path in tables.found(self.paths, tables.TABLES):
      if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty")
      for where, row in tables.rows(path):
        yield where, self.read(row, where)


@dataclasses.dataclass(frozen=True)
class TFDSPreferences(PreferenceForm):
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
    return f"preferences-1 {self.about()} {found}"

  def documents(self) -> Iterator[str]:
    """Preferences as JSON; ValueError names example and field."""
    return (p.to_json() for p in gathered(self._read()))

  def _read(self) -> Iterator[tuple[str, Preference]]:
    examples = tfds_source.examples(self.name, self.split, self.data_dir)
    for where, example in examples:
      yield where, self.read(tfds_source.plain(example, where), where)


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
