"""Text as training data: sources, splits, packing."""

from collections.abc import Iterator
import dataclasses
import heapq
from typing import Literal

from llm_jax.config import field
from llm_jax.contracts import Progress, Source, Tokenizer
from llm_jax.data import batches, packing, prepared, tokens
from llm_jax.data.files import Files
from llm_jax.data.stdlib import Stdlib
from llm_jax.data.tfds_source import TFDS


@dataclasses.dataclass(frozen=True)
class Text:
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
  validation: float = field(0.05, "share held out", low=0, high=1)
  test: float = field(0.0, "second share held out", low=0, high=1)
  cache: str | None = field(
    None, "folder of prepared data; none = ~/.cache/llm_jax"
  )

  def __post_init__(self) -> None:
    if not self.sources:
      raise ValueError("data needs at least one source")
    if self.weights and (
      len(self.weights) != len(self.sources) or min(self.weights) <= 0
    ):
      raise ValueError(
        f"--data.weights={','.join(map(str, self.weights))}: one positive"
        f" number for each of {len(self.sources)} sources"
      )
    if self.validation + self.test >= 1:
      raise ValueError(
        f"--data.validation={self.validation} --data.test={self.test}:"
        " nothing is left to train on"
      )

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    cache = prepared.cache_folder(self.cache)
    documents = [prepared.prepare(s, cache, progress) for s in self.sources]
    return Corpus(self, documents)


class Corpus:
  """Prepared documents, and what is made of them."""

  def __init__(self, settings: Text, documents: list[prepared.Prepared]):
    self._settings, self._documents = settings, documents
    self._shares = tokens.Shares(
      settings.split, settings.validation, settings.test
    )

  def texts(self, split: str) -> Iterator[str]:
    """Texts of a split, in an order by hash: a beginning is a fair sample."""
    for documents in self._documents:
      total = sum(map(len, documents)) if self._shares.by == "position" else 0
      parts = self._shares.part(documents, total)
      wanted = [text for s, text in parts if s == split]
      keyed = [(prepared.fingerprint(text), text) for text in wanted]
      heapq.heapify(keyed)
      while keyed:
        yield heapq.heappop(keyed)[1]

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Tokenised":
    """Token ids of every split, or those in the cache."""
    cache = prepared.cache_folder(self._settings.cache)
    by_source = [
      tokens.tokenise(d, self._shares, tokenizer, cache, progress)
      for d in self._documents
    ]
    return Tokenised(self._settings, by_source)


class Tokenised:
  """Token ids by source and split, ready to be packed."""

  def __init__(self, settings: Text, by_source: list[dict[str, tokens.Tokens]]):
    self._settings, self._by_source = settings, by_source

  def train(
    self, batch_size: int, seed: int, block: tuple[int, int] = (0, 1)
  ) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    s = self._settings
    pack = packing.Cut if s.packing == "cut" else packing.BestFit
    rows = [
      pack(part["train"], s.length, seed + i)
      for i, part in enumerate(self._by_source)
    ]
    weights = s.weights or (1.0,) * len(rows)
    return batches.Offline(rows, weights, batch_size, block)

  def held_out(
    self, split: str, batch_size: int, block: tuple[int, int] = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each token a target once, in order."""
    s = self._settings
    found = self.tokens(split)
    rows: packing.Rows
    if s.packing == "cut":
      rows = packing.InOrder(found, s.length)
    else:
      rows = packing.BestFit(found, s.length, None)
    return batches.Finite(rows, batch_size, block)

  def tokens(self, split: str) -> tokens.Tokens:
    """The token ids of a split of all sources."""
    if split not in tokens.SPLITS:
      raise ValueError(
        f"--validation.split={split}: one of {', '.join(tokens.SPLITS)}"
      )
    joined = tokens.join([part[split] for part in self._by_source])
    if not len(joined):
      raise ValueError(
        f"--validation.split={split}: the split is empty; raise"
        " --data.validation or --data.test, or give more documents"
      )
    return joined
