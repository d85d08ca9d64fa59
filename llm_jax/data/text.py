"""Text as training data: sources, splits, packing."""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Literal

from llm_jax.config import field
from llm_jax.contracts import Progress, Share, Source, Tokenizer
from llm_jax.data import (
  batches,
  cache,
  denoised,
  mixture,
  packing,
  prepared,
  splits,
  tokens,
)
from llm_jax.data.corruption import Pair
from llm_jax.data.denoisers import Masked, Mixture, Plain, PrefixLM, Spans
from llm_jax.data.files import Files
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib import Stdlib
from llm_jax.data.tfds_source import TFDS
from llm_jax.data.tokens import Tokens
from llm_jax.data.words import Vocabulary


@dataclasses.dataclass(frozen=True)
class Text(mixture.Mixture):
  """Weighted sources of documents, cut or packed into rows."""

  sources: tuple[Stdlib | Files | TFDS, ...] = (Stdlib(),)
  weights: tuple[float, ...] = field(
    (), "share of rows from each source; none = alike"
  )
  length: int = field(256, "T, tokens in a row", low=1)
  packing: Literal["cut", "best_fit"] = field(
    "cut", "cut the joined text, or pack whole documents apart"
  )
  split: Literal["hash", "position"] = field(
    "hash", "part by a hash of each document, or first to last character"
  )
  corruption: Plain | Masked | Spans | PrefixLM | Mixture = Plain()
  source: SourceSide = SourceSide()

  def __post_init__(self) -> None:
    super().__post_init__()
    given = f"--data.source.length={self.source.length}"
    if self.source.length and isinstance(self.corruption, Plain | Masked):
      kind = type(self.corruption).__name__
      raise ValueError(
        f"{given}: text as --data.corruption ({kind}) has it is in one row; 0 ="
        " no source"
      )

  def shares(self) -> tuple[float, ...]:
    """Weight of each source."""
    return self.weights or (1.0,) * len(self.sources)

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    folder, documents = self.documents(self.sources, progress)
    return Corpus(self, folder, documents)


class Corpus:
  """Prepared documents, and what is made of them."""

  def __init__(
    self,
    settings: Text,
    folder: pathlib.Path,
    documents: list[prepared.Prepared],
  ):
    self._settings, self._folder = settings, folder
    self._documents = documents
    self._shares = splits.Shares(
      settings.split, settings.validation, settings.test
    )

  def texts(self, split: str) -> Iterator[str]:
    """Texts of a split; any beginning of them is a fair sample.

    Sources take turns, so that characters given follow their weights; within
    a source documents come in an order by hash.
    """
    sources = [self._by_hash(d, split) for d in self._documents]
    given = [0.0] * len(sources)
    left = set(range(len(sources)))
    while left:
      i = min(left, key=lambda i: (given[i], i))
      text = next(sources[i], None)
      if text is None:
        left.remove(i)
        continue
      given[i] += (len(text) + 1) / self._settings.shares()[i]
      yield text

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Tokenised":
    """Token ids of every split, or those in the cache."""
    by_source = [
      tokens.tokenise(d, self._shares, tokenizer, self._folder, progress)
      for d in self._documents
    ]
    identity = cache.fingerprint(
      tokenizer.fingerprint, *(d.identity for d in self._documents)
    )
    return Tokenised(self._settings, by_source, identity, tokenizer)

  def _by_hash(self, documents: prepared.Prepared, split: str) -> Iterator[str]:
    if self._shares.by == "position":
      total = sum(map(len, documents))
      parts = self._shares.part(documents, total)
      texts = [text for s, text in parts if s == split]
      yield from sorted(texts, key=splits.place)
      return
    # Two passes hold numbers, not texts, in memory.
    found = [
      (splits.place(text), i)
      for i, text in enumerate(documents)
      if self._shares.of(text) == split
    ]
    yield from (documents[i] for _, i in sorted(found))


class Tokenised:
  """Token ids by source and split, ready to be packed.

  `identity` changes with the text and the tokenizer.
  """

  def __init__(
    self,
    settings: Text,
    by_source: list[dict[str, tokens.Tokens]],
    identity: str,
    tokenizer: Tokenizer,
  ):
    self._settings, self._by_source = settings, by_source
    self.identity, self._vocabulary = identity, Vocabulary(tokenizer)

  def train(self, batch_size: int, seed: int, block: Share = (0, 1)) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    rows, shares = [], []
    for i, share in enumerate(self._settings.shares()):
      found = self._by_source[i]["train"]
      parts = mixture.of_source(i, self._rows, found, (seed, i))
      for its, part in parts:
        rows.append(its)
        shares.append(share * part / sum(part for _, part in parts))
    return batches.Offline(rows, shares, batch_size, block)

  def held_out(
    self, split: str, batch_size: int, block: Share = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, in order.

    Each token is a target once. Where text is taken away it is the same each
    time, and of several ways each has its share of rows.
    """
    parts = self._rows(self.tokens(split), None)
    rows = parts[0][0] if len(parts) == 1 else denoised.Shared(parts)
    return batches.Finite(rows, batch_size, block)

  def gaps(self, split: str, limit: int) -> list[Pair]:
    """Examples of a split with spans to be told; none of other text."""
    if isinstance(self._settings.corruption, Plain | Masked):
      return []
    parts = self._rows(self.tokens(split), None)
    return denoised.gaps(parts, self._vocabulary, limit)

  def tokens(self, split: str) -> tokens.Tokens:
    """The token ids of a split of all sources."""
    splits.check(split)
    joined = tokens.join([part[split] for part in self._by_source])
    if not len(joined):
      raise ValueError(
        f"the {split} split is empty: {splits.remedy(split)}, give more"
        " documents, or set --data.split=position"
      )
    return joined

  def _rows(
    self, found: Tokens, seed: tuple[int, int] | None
  ) -> list[tuple[packing.Rows, float]]:
    """Rows of documents, and shares of them; see `denoised.parts`."""
    s = self._settings
    packed = s.packing == "best_fit"
    if isinstance(s.corruption, Plain):
      return [(packing.plain(found, s.length, packed, seed), 1.0)]
    shape = denoised.Shape(s.length, packed, s.source)
    return denoised.parts(s.corruption, found, shape, self._vocabulary, seed)
