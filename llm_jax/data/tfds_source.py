"""Any TFDS dataset that is on this machine."""

from collections.abc import Iterator
import dataclasses
import hashlib
import pathlib
from typing import Any

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import prepared


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
    folder = pathlib.Path(self._builder().data_path)
    digest = hashlib.blake2b((folder / "dataset_info.json").read_bytes())
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
      about = path.stat()
      digest.update(f"{path.name} {about.st_size} {about.st_mtime_ns}".encode())
    return f"tfds-2 {digest.hexdigest()} {self.split} {self.text_field}"

  def documents(self) -> Iterator[str]:
    """Texts of the split, in stored order. ValueError where one is no text."""
    builder = self._builder()
    try:
      examples = builder.as_data_source(split=self.split)
    except Exception as e:  # TFDS raises many kinds
      raise ValueError(f"{self._flag()}: {prepared.first_line(e)}") from e
    for i in range(len(examples)):
      example = examples[i]
      where = f"{self._flag()}: example {i}"
      if self.text_field not in example:
        raise ValueError(
          f"{where}: no field --data.sources.N.text_field="
          f"{self.text_field}; fields: {', '.join(sorted(example))}"
        )
      value = example[self.text_field]
      try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
      except UnicodeDecodeError as e:
        raise ValueError(f"{where}: not UTF-8: byte {e.start}") from e
      if not isinstance(text, str):
        raise ValueError(
          f"{where}: field {self.text_field!r} is not text but {value!r:.60}"
        )
      yield text

  def _flag(self) -> str:
    return f"--data.sources.N.name={self.name}"

  def _builder(self) -> Any:
    """TFDS's builder, whose files are here."""
    if not self.name:
      raise ValueError("--data.sources.N.name: no builder or folder given")
    tfds = prepared.tfds()
    folder = pathlib.Path(self.name).expanduser()
    try:
      if folder.is_dir():
        builder = tfds.builder_from_directory(str(folder))
      else:
        builder = tfds.builder(self.name, data_dir=self.data_dir, try_gcs=False)
      known = list(builder.info.splits)
    except Exception as e:  # TFDS raises many kinds
      raise ValueError(f"{self._flag()}: {prepared.first_line(e)}") from e
    if self.split.split("[")[0] not in known:
      raise ValueError(
        f"--data.sources.N.split={self.split}: {self.name} has, prepared on"
        f" this machine, {', '.join(known) or 'no split'}"
      )
    return builder
