"""Labelled texts as training data: sources, classes, rows."""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Literal

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import example_tokens, mixture, prepared, sides, splits
from llm_jax.data.example import from_json, Kind
from llm_jax.data.example_sources import ExampleFiles, TFDSExamples, Told
from llm_jax.data.exampled import Exampled
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_examples import StdlibExamples


@dataclasses.dataclass(frozen=True)
class Examples(mixture.Mixture):
  """Weighted sources of texts, or pairs of texts, of which something is told.

  A row is one example, see `framing`; with a source, for an encoder-decoder.
  """

  sources: tuple[StdlibExamples | ExampleFiles | TFDSExamples, ...] = (
    StdlibExamples(),
  )
  rows: Kind = field(
    "classes",
    "what is told of a text: its class, which of several classes it is of, or a"
    " number",
  )
  classes: tuple[str, ...] = field(
    (),
    "names of classes, by number from 0; none = those of the training split, in"
    " order",
  )
  length: int = field(128, "T, tokens in a row, special ones included", low=1)
  widths: int = field(
    8,
    "rows are cut to the longest of their batch, at one of this many widths,"
    " each compiled once; 1 = always all of --data.length",
    low=1,
  )
  between: int = field(
    1, "end tokens between two texts: 1 as BERT, 2 as RoBERTa", low=0, high=2
  )
  too_long: Literal["error", "cut", "drop"] = field(
    "error",
    "what is done with an example longer than a row; cut = of two texts the"
    " longer one loses its end",
  )
  read_at: Literal["first", "last"] = field(
    "last",
    "the token whose output tells: the last one, or the first, as only an"
    " encoder can",
  )
  source: SourceSide = SourceSide()

  def __post_init__(self) -> None:
    super().__post_init__()
    sides.check_twice(self.source, self.length)
    given = f"--data.classes={','.join(self.classes)}"
    if self.classes and self.rows == "numbers":
      raise ValueError(f"{given}: --data.rows=numbers have no classes")
    if len(set(self.classes)) < len(self.classes):
      raise ValueError(f"{given}: each once")
    least = 2 if self.rows == "classes" else 1
    if 0 < len(self.classes) < least:
      raise ValueError(f"{given}: nothing is told apart; two names or more")

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    told = [Told(source, self.rows) for source in self.sources]
    folder, documents = self.documents(told, progress)
    return Corpus(self, folder, documents)


class Corpus:
  """Prepared examples, and what is made of them."""

  def __init__(
    self,
    settings: Examples,
    folder: pathlib.Path,
    documents: list[prepared.Prepared],
  ):
    self._settings, self._folder = settings, folder
    self._documents = documents
    self._shares = splits.Shares("hash", settings.validation, settings.test)

  def texts(self, split: str) -> Iterator[str]:
    """Texts of a split; any beginning is a fair sample."""
    places = [(d, i) for d in self._documents for i in range(len(d))]
    for n in np.random.default_rng(0).permutation(len(places)).tolist():
      documents, i = places[n]
      found = from_json(documents[i])
      if found.of(self._shares) == split:
        yield (
          found.text if found.pair is None else f"{found.text}\n{found.pair}"
        )

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> Exampled:
    """Token ids of every split, or those in the cache."""
    by_source = [
      example_tokens.tokenise(
        documents, self._shares, tokenizer, self._folder, progress
      )
      for documents in self._documents
    ]
    identities = [documents.identity for documents in self._documents]
    return Exampled(self._settings, by_source, identities, tokenizer)
