"""Any TFDS dataset that is on this machine."""

from collections.abc import Iterator
import dataclasses
import hashlib
import pathlib
from typing import Any

from llm_jax import storage
from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import prepared, tables


@dataclasses.dataclass(frozen=True)
class TFDS:
  """A builder by name, or a prepared folder. Nothing is downloaded."""

  name: str = field("", "builder's name, or the folder that it prepared")
  split: str = field("train", "its split, in TFDS's notation")
  text_field: str = field("text", "name of the text in an example")
  data_dir: str | None = field(
    None, "where TFDS keeps datasets; none = default"
  )

  def identity(self, progress: Progress) -> str:
    """Changes with the dataset, its version and the split."""
    del progress  # nothing to wait for
    found = identity(self.name, self.split, self.data_dir)
    return f"{found} {self.text_field}"

  def documents(self) -> Iterator[str]:
    """Texts of the split, in stored order. ValueError where one is no text."""
    for where, example in examples(self.name, self.split, self.data_dir):
      if self.text_field not in example:
        raise ValueError(
          f"{where}: no field --data.sources.N.text_field="
          f"{self.text_field}; fields: {', '.join(sorted(example))}"
        )
      value = example[self.text_field]
      if isinstance(value, bytes):
        value = tables.decode(value, where)
      if not isinstance(value, str):
        raise ValueError(
          f"{where}: field {self.text_field!r} is not text but {value!r:.60}"
        )
      yield value


def identity(name: str, split: str, data_dir: str | None) -> str:
  """Changes with the dataset, its version and the split."""
  folder = pathlib.Path(_builder(name, split, data_dir).data_path)
  digest = hashlib.blake2b((folder / "dataset_info.json").read_bytes())
  for path in sorted(p for p in folder.iterdir() if p.is_file()):
    about = path.stat()
    digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}".encode())
  return f"tfds-2 {digest.hexdigest()} {split}"


def examples(
  name: str, split: str, data_dir: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields (where it stands, example) of a split, in stored order.

  A label is given by its name, where the dataset has names.
  """
  builder = _builder(name, split, data_dir)
  try:
    found = builder.as_data_source(split=split)
  except Exception as e:  # TFDS raises many kinds
    raise ValueError(f"{_flag(name)}: {prepared.first_line(e)}") from e
  names = {
    field: feature.int2str
    for field, feature in builder.info.features.items()
    if hasattr(feature, "int2str")
  }
  for i in range(len(found)):
    example = found[i]
    labels = {f: of(int(example[f])) for f, of in names.items()}
    yield f"{_flag(name)}: example {i}", {**example, **labels}


def plain(example: dict[str, Any], where: str) -> dict[str, Any]:
  """An example as the row of a table would be."""
  return {name: _plain(value, where) for name, value in example.items()}


def _flag(name: str) -> str:
  return f"--data.sources.N.name={name}"


def _builder(name: str, split: str, data_dir: str | None) -> Any:
  """TFDS's builder, whose files are here."""
  if not name:
    raise ValueError("--data.sources.N.name: no builder or folder given")
  tfds = prepared.tfds()
  if storage.is_url(name):
    raise ValueError(
      f"{_flag(name)}: a dataset that TFDS prepared must be on this machine, or"
      " its files be given as .parquet"
    )
  folder = pathlib.Path(name).expanduser()
  try:
    if folder.is_dir():
      builder = tfds.builder_from_directory(str(folder))
    else:
      builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    known = list(builder.info.splits)
  except Exception as e:  # TFDS raises many kinds
    raise ValueError(f"{_flag(name)}: {prepared.first_line(e)}") from e
  if split.split("[")[0] not in known:
    raise ValueError(
      f"--data.sources.N.split={split}: {name} has, prepared on"
      f" this machine, {', '.join(known) or 'no split'}"
    )
  return builder


def _plain(value: Any, where: str) -> Any:
  """Bytes as text, arrays as lists, a dict of lists as a list of dicts."""
  if hasattr(value, "tolist"):  # numpy's
    value = value.tolist()
  if isinstance(value, bytes):
    return tables.decode(value, where)
  if isinstance(value, list | tuple):
    return [_plain(v, where) for v in value]
  if isinstance(value, dict):
    parts = {name: _plain(v, where) for name, v in value.items()}
    if all(isinstance(part, list) for part in parts.values()):
      rows = zip(*parts.values(), strict=True)
      return [dict(zip(parts, row, strict=True)) for row in rows]
    return parts
  return value
