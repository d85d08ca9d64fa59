"""Documents prepared once: a TFDS builder writes ArrayRecord shards."""

from collections.abc import Iterable, Iterator
import contextlib
import functools
import io
import logging
import pathlib
from typing import Any, Protocol

from llm_jax.contracts import Progress
from llm_jax.data import cache

_NAME, _SPLIT = "corpus", "documents"


class Documents(Protocol):
  """A source of texts; `identity` changes whenever they do."""

  def identity(self, progress: Progress) -> str: ...

  def documents(self) -> Iterator[str]: ...


@functools.cache
def tfds() -> Any:
  """TFDS, quiet, and never reaching for the network."""
  logging.getLogger("absl").setLevel(logging.ERROR)
  import tensorflow_datasets  # noqa: PLC0415  (slow to import)

  tensorflow_datasets.disable_progress_bar()
  tensorflow_datasets.core.utils.gcs_utils._is_gcs_disabled = True
  return tensorflow_datasets


def first_line(error: Exception) -> str:
  """What an error of TFDS says, without its pages of advice."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def prepare(
  source: Documents, folder: pathlib.Path, progress: Progress
) -> "Prepared":
  """The prepared form of a source, made in the cache if it is not there.

  Raises:
    ValueError: what the source says of its input, or that it holds nothing.
  """
  identity = source.identity(progress)
  final = folder / "documents" / cache.fingerprint("prepared-2", identity)

  def make(partial: pathlib.Path) -> None:
    texts = _some(progress(source.documents(), label="preparing text"))
    builder = _builder_class()(texts, data_dir=str(partial))
    config = tfds().download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS talks
      builder.download_and_prepare(download_config=config)

  cache.once(final, make)
  return Prepared(final, identity)


class Prepared:
  """Documents at random access, read without TensorFlow.

  TFDS is loaded at the first use: a start that finds tokens needs none of it.
  """

  def __init__(self, folder: pathlib.Path, identity: str):
    self.identity, self._folder = identity, folder

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> str:
    text = self._examples[index]["text"]
    return text.decode("utf-8") if isinstance(text, bytes) else text

  def __iter__(self) -> Iterator[str]:
    return (self[i] for i in range(len(self)))

  @functools.cached_property
  def _examples(self) -> Any:
    (folder,) = (self._folder / _NAME).iterdir()  # the version's
    builder = tfds().builder_from_directory(str(folder))
    return builder.as_data_source(split=_SPLIT)


def _some(texts: Iterable[str]) -> Iterator[str]:
  """The texts; ValueError where there is none."""
  is_empty = True
  for text in texts:
    is_empty = False
    yield text
  if is_empty:
    raise ValueError("--data.sources.N: holds no document")


@functools.cache
def _builder_class() -> Any:
  """Made on first use, because it derives from a class of TFDS."""
  lib: Any = tfds()
  base: Any = lib.core.GeneratorBasedBuilder

  class Corpus(base):
    """One text an example, in the order given."""

    VERSION = lib.core.Version("1.0.0")
    name = _NAME

    def __init__(self, texts: Iterator[str], **kwargs: Any):
      self._texts = texts
      super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> Any:
      info = lib.core.DatasetInfo(
        builder=self,
        features=lib.features.FeaturesDict({"text": lib.features.Text()}),
        disable_shuffling=True,
      )
      # It would look for this corpus on the network, in a new folder of /tmp.
      info.initialize_from_bucket = lambda: None
      return info

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
      del dl_manager
      return {_SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
      yield from ((i, {"text": text}) for i, text in enumerate(self._texts))

  return Corpus
