"""Documents prepared once: a TFDS builder writes ArrayRecord shards."""

from collections.abc import Iterator
import contextlib
import functools
import hashlib
import io
import logging
import os
import pathlib
import shutil
from typing import Any, Protocol, runtime_checkable

from llm_jax.contracts import Progress


@runtime_checkable
class Documents(Protocol):
  """A source of texts; `identity` changes whenever they do."""

  def identity(self) -> str: ...

  def documents(self) -> Iterator[str]: ...


def cache_folder(given: str | None) -> pathlib.Path:
  """Where prepared data is kept between runs."""
  if given:
    return pathlib.Path(given).expanduser()
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "llm_jax"


def fingerprint(*parts: str) -> str:
  """A short name for some content."""
  joined = "\x00".join(parts).encode()
  return hashlib.blake2b(joined, digest_size=10).hexdigest()


@functools.cache
def tfds() -> Any:
  """TFDS, quiet, and never reaching for the network."""
  logging.getLogger("absl").setLevel(logging.ERROR)
  import tensorflow_datasets  # noqa: PLC0415  (slow to import)

  tensorflow_datasets.disable_progress_bar()
  tensorflow_datasets.core.utils.gcs_utils._is_gcs_disabled = True
  return tensorflow_datasets


def prepare(
  source: Documents, cache: pathlib.Path, progress: Progress
) -> "Prepared":
  """The prepared form of a source, made now if it is not in the cache."""
  identity = source.identity()
  folder = cache / "documents" / fingerprint(identity)
  if not folder.exists():
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    texts = progress(source.documents(), label="preparing text")
    builder = _builder_class()(texts, data_dir=str(partial))
    config = tfds().download.DownloadConfig(try_download_gcs=False)
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # TFDS talks
        builder.download_and_prepare(download_config=config)
    except BaseException as e:
      shutil.rmtree(partial, ignore_errors=True)
      # TFDS wraps what the source raised.
      if isinstance(e.__cause__, ValueError):
        raise e.__cause__ from None
      raise
    publish(pathlib.Path(builder.data_path), folder)
    shutil.rmtree(partial, ignore_errors=True)
  return Prepared(folder, identity)


def publish(partial: pathlib.Path, final: pathlib.Path) -> None:
  """Renames a whole folder into place; another process may have been first."""
  final.parent.mkdir(parents=True, exist_ok=True)
  try:
    os.replace(partial, final)
  except OSError:
    if not final.exists():
      raise
    shutil.rmtree(partial, ignore_errors=True)


class Prepared:
  """Documents at random access, read without TensorFlow."""

  def __init__(self, folder: pathlib.Path, identity: str):
    self.identity = identity
    builder = tfds().builder_from_directory(str(folder))
    self._examples = builder.as_data_source(split="documents")

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> str:
    text = self._examples[index]["text"]
    return text.decode("utf-8") if isinstance(text, bytes) else text

  def __iter__(self) -> Iterator[str]:
    return (self[i] for i in range(len(self)))


@functools.cache
def _builder_class() -> Any:
  """Made on first use, because it derives from a class of TFDS."""
  lib: Any = tfds()
  base: Any = lib.core.GeneratorBasedBuilder

  class Corpus(base):
    """One text an example, in the order given."""

    VERSION = lib.core.Version("1.0.0")

    def __init__(self, texts: Iterator[str], **kwargs: Any):
      self._texts = texts
      super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> Any:
      return lib.core.DatasetInfo(
        builder=self,
        features=lib.features.FeaturesDict({"text": lib.features.Text()}),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {"documents": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
      yield from ((i, {"text": text}) for i, text in enumerate(self._texts))

  return Corpus
