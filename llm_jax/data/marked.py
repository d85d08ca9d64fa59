"""Texts with something to be told at their positions, ready for batches.

What words and what passages share: splits, batches, errors.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
import pathlib
from typing import Any

import numpy as np

from llm_jax.contracts import Progress, Share, Source, Tokenizer
from llm_jax.data import batches, cache, mixture, prepared, sides, splits
from llm_jax.data.each_once import EachOnce
from llm_jax.data.example_rows import Joined


class Corpus(abc.ABC):
  """Prepared documents, and what is made of them."""

  def __init__(
    self,
    settings: Any,
    folder: pathlib.Path,
    documents: list[prepared.Prepared],
  ):
    self._settings, self._folder = settings, folder
    self._documents = documents
    self._shares = splits.Shares("hash", settings.validation, settings.test)

  @abc.abstractmethod
  def _told(self, line: str) -> tuple[str, str]:
    """Split of a prepared document, and its text."""

  def texts(self, split: str) -> Iterator[str]:
    """Texts of a split; any beginning is a fair sample."""
    places = [(d, i) for d in self._documents for i in range(len(d))]
    for n in np.random.default_rng(0).permutation(len(places)).tolist():
      documents, i = places[n]
      its, text = self._told(documents[i])
      if its == split:
        yield text

  def parts(
    self,
    version: str,
    kind: Callable[..., Any],
    tokenised: Callable[[Iterator[str]], dict[str, Any]],
    tokenizer: Tokenizer,
    progress: Progress,
  ) -> list[dict[str, Any]]:
    """Splits of each source as tuples of arrays, made once and cached.

    Args:
      version: of what is made.
      kind: of tuple, by names of its arrays.
      tokenised: prepared documents -> split -> tuple.
      tokenizer: that it uses.
      progress: shows that it goes on.
    """

    def load(path: pathlib.Path) -> Any:
      with np.load(path) as saved:
        return kind(**saved)

    out = []
    for documents in self._documents:
      about = (version, documents.identity, tokenizer.fingerprint)
      name = cache.fingerprint(*about, repr(self._shares))
      final = self._folder / "tokens" / name

      def make(folder: Any, its: prepared.Prepared = documents) -> None:
        lines = progress(its, total=len(its), label="tokenising")
        for split, part in tokenised(iter(lines)).items():
          np.savez(folder / f"{split}.npz", **part._asdict())

      cache.once(final, make)
      out.append({s: load(final / f"{s}.npz") for s in splits.SPLITS})
    return out

  @abc.abstractmethod
  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Marked":
    """Token ids of every split, or those in the cache."""


class Marked(abc.ABC):
  """Rows by source and split.

  Attributes:
    identity: changes with the documents, the tokenizer and what is told apart.
    classes: names of what is told apart, by number; none where there are none.
    notes: what was left out or done, in words.
  """

  classes: tuple[str, ...] = ()
  notes: Sequence[str] = ()

  def __init__(
    self,
    settings: Any,
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
  ):
    self._settings, self._documents = settings, documents
    self.identity = cache.fingerprint(
      tokenizer.fingerprint, *(d.identity for d in documents)
    )

  @abc.abstractmethod
  def _rows(
    self, source: int, split: str, seed: Sequence[int] | None
  ) -> EachOnce:
    """Of a source; in the order of their numbers where there is no seed."""

  def train(self, batch_size: int, seed: int, block: Share = (0, 1)) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    s = self._settings
    rows = self._every("train", seed)
    for i, its in enumerate(rows):
      if not len(its):
        raise ValueError(
          f"--data.sources.{i}: has nothing to train on; leave it out"
        )
    weights = s.weights or [float(len(its)) for its in rows]
    return batches.Offline(
      rows,
      weights,
      batch_size,
      block,
      widths=s.widths,
      letters=sides.letters(s.source),
    )

  def held_out(
    self, split: str, batch_size: int, block: Share = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each row once, in order."""
    rows = Joined(self._every(split, None))
    s = self._settings
    letters = sides.letters(s.source)
    return batches.Finite(
      rows, batch_size, block, widths=s.widths, letters=letters
    )

  def _every(self, split: str, seed: int | None) -> list[EachOnce]:
    """Rows of all sources; ValueError where a split is none, or empty."""
    splits.check(split)
    found = [
      mixture.of_source(
        i, self._rows, i, split, None if seed is None else (seed, i)
      )
      for i in range(len(self._documents))
    ]
    if not any(map(len, found)):
      raise ValueError(
        f"the {split} split is empty: {splits.remedy(split)}, or see"
        " --data.sources.N.into"
      )
    return found
