"""Any TFDS dataset that is on this machine."""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

from llm_jax.config import field


@dataclasses.dataclass(frozen=True)
class TFDS:
  """A builder by name, or a prepared folder. Nothing is downloaded."""

  name: str = field("", "builder's name, or the folder that it prepared")
  split: str = field("train", "its split, in TFDS's notation")
  text_field: str = field("text", "name of the text in an example")
  data_dir: str | None = field(
    None, "where TFDS keeps datasets; none = default"
  )

  def identity(self) -> str:
    """Changes with the dataset's version, config and split."""
    builder = self._builder()
    return f"tfds-1 {builder.data_path} {self.split} {self.text_field}"

  def documents(self) -> Iterator[str]:
    """Texts of the split, in stored order."""
    examples = self._builder().as_data_source(split=self.split)
    for i in range(len(examples)):
      example = examples[i]
      if self.text_field not in example:
        raise ValueError(
          f"{self.name}: no field --data.sources.N.text_field="
          f"{self.text_field}; fields: {', '.join(sorted(example))}"
        )
      value = example[self.text_field]
      yield value.decode("utf-8") if isinstance(value, bytes) else str(value)

  def _builder(self) -> Any:
    from llm_jax.data import prepared  # noqa: PLC0415  (slow to import)

    tfds = prepared.tfds()
    if not self.name:
      raise ValueError("--data.sources.N.name: no builder or folder given")
    try:
      if pathlib.Path(self.name).is_dir():
        builder = tfds.builder_from_directory(self.name)
      else:
        builder = tfds.builder(self.name, data_dir=self.data_dir, try_gcs=False)
      if self.split.split("[")[0] not in builder.info.splits:
        raise ValueError(
          f"split {self.split} unknown, or not prepared here; prepared:"
          f" {', '.join(builder.info.splits) or 'none'}"
        )
    except Exception as e:
      raise ValueError(
        f"--data.sources.N.name={self.name}: {str(e).splitlines()[0]}"
      ) from e
    return builder
