"""Data in which a prompt is a question: what every kind of it shares.

Settings are told by `Questions`; prepared they are a `Corpus`, and with a
tokenizer `Asked`, whose methods are those of `text.Tokenised`.
"""

import abc
from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Progress, Share, Source, Tokenizer
from llm_jax.data import (
  batches,
  cache,
  chat,
  conversation_tokens,
  few_shot,
  mixture,
  packing,
  prepared,
  splits,
  trained_tokens,
)
from llm_jax.data.conversation import Conversation


@dataclasses.dataclass(frozen=True)
class Questions(mixture.Mixture):
  """Weighted sources, and how what they hold is written down as one text."""

  temperature: float = field(
    1.0, "shares are raised to 1 / this; above 1 = more alike", low=1e-3
  )
  template: str = field(
    "chat",
    "chat = turns between special tokens, plain = prompt, answer, eos;"
    " hf:FOLDER = that of a folder of the ecosystem; or a"
    " .jinja file",
  )
  length: int = field(256, "T, tokens in a row", low=1)
  widths: int = field(
    8,
    "rows that are not packed are cut to the longest of their batch, at one of"
    " this many widths, each compiled once; 1 = always all of --data.length",
    low=1,
  )


class Corpus(abc.ABC):
  """Prepared documents, and what is made of them.

  Every source is read once, or found in the cache.
  """

  def __init__(
    self,
    settings: Questions,
    sources: Sequence[prepared.Documents],
    progress: Progress,
  ):
    self._settings = settings
    self._template = chat.Template(settings.template)
    self._folder, self._documents = settings.documents(sources, progress)
    self._shares = splits.Shares("hash", settings.validation, settings.test)

  @abc.abstractmethod
  def _told(self, line: str) -> tuple[float, str] | None:
    """Place of a prepared document among the splits, and what is said in it."""

  def texts(self, split: str) -> Iterator[str]:
    """What is said in a split; any beginning is a fair sample."""
    places = [(d, i) for d in self._documents for i in range(len(d))]
    for n in np.random.default_rng(0).permutation(len(places)).tolist():
      documents, i = places[n]
      told = self._told(documents[i])
      if told is not None and self._shares.at(told[0]) == split:
        yield told[1]

  def _tokenised(
    self, one: Callable[..., Any], tokenizer: Tokenizer, progress: Progress
  ) -> list[Any]:
    """What `one` makes of the documents of each source."""
    how = trained_tokens.How(
      self._shares, tokenizer, self._template, self._folder, progress
    )
    return [one(documents, how) for documents in self._documents]


class Example(NamedTuple):
  """A question whose answer is known."""

  prompt_ids: list[int]  # what stands before the answer; no start id
  reference: str
  conversation: Conversation  # whole, without the examples shown before it


class Asked(abc.ABC):
  """Token ids by source and split.

  Attributes:
    identity: changes with the documents, tokenizer and template.
    rows_together: rows of a batch that belong together.
    notes: what was left out or done, in words.
  """

  rows_together = 1
  notes: list[str]

  def __init__(
    self,
    settings: Questions,
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    template: chat.Template,
  ):
    self._settings: Any = settings
    self._documents, self._tokenizer = documents, tokenizer
    self._template = template
    self.identity = cache.fingerprint(
      tokenizer.fingerprint, template.source, *(d.identity for d in documents)
    )

  @abc.abstractmethod
  def _counts(self, split: str) -> list[int]:
    """Examples of each source that rows are made of."""

  @abc.abstractmethod
  def _rows(self, source: int, seed: tuple[int, int]) -> packing.Rows:
    """Rows of a source's train split."""

  @abc.abstractmethod
  def _empty(self, split: str, remedy: str) -> str:
    """What is said of a split without examples."""

  @abc.abstractmethod
  def _places(self, source: int, split: str, shown: bool) -> np.ndarray:
    """Prepared documents that have an answer: to be `shown`, or else asked."""

  @abc.abstractmethod
  def _read(self, line: str) -> Conversation:
    """A prepared document that has an answer, with it."""

  def train(self, batch_size: int, seed: int, block: Share = (0, 1)) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    self._check("train")
    rows = [
      mixture.of_source(i, self._rows, i, (seed, i))
      for i in range(len(self._documents))
    ]
    # A row of short ones holds more of them.
    each = zip(self.shares(), rows, self._counts("train"), strict=True)
    weights = [share * len(r) / count for share, r, count in each]
    return batches.Offline(
      rows,
      weights,
      batch_size,
      block,
      self.rows_together,
      self._settings.widths,
    )

  def shares(self) -> list[float]:
    """Share of training examples from each source; they sum to 1."""
    s = self._settings
    counts = self._counts("train")
    raised = np.power(s.weights or counts, 1 / s.temperature)
    return (raised / raised.sum()).tolist()

  def examples(
    self, split: str, limit: int | None = None, shots: int = 0
  ) -> list[Example]:
    """Questions of a split with their best answers, the same ones each time.

    Args:
      split: of all sources.
      limit: how many at most; None = all. Any are a fair sample.
      shots: answered ones of the train split shown before each.
    """
    self._check(split)
    sources = range(len(self._documents))
    asked_of = [self._places(i, split, False).tolist() for i in sources]
    places = [(i, place) for i in sources for place in asked_of[i]]
    chosen = np.random.default_rng(0).permutation(len(places))[:limit]
    pools = [self._pool(i) for i in sources]
    found, asked = [], []
    for source, place in (places[n] for n in chosen.tolist()):
      conversation = self._read(self._documents[source][place])
      found.append(conversation)
      asked.append(few_shot.show(conversation.question, pools[source], shots))
    ids = conversation_tokens.beginning(asked, self._tokenizer, self._template)
    return [Example(i, c.answer, c) for i, c in zip(ids, found, strict=True)]

  def _pool(self, source: int) -> "_Pool":
    places = self._places(source, "train", True)
    return _Pool(self._documents[source], places, self._read)

  def _check(self, split: str) -> None:
    """ValueError where a split is none, or holds no example."""
    splits.check(split)
    if not any(self._counts(split)):
      raise ValueError(self._empty(split, splits.remedy(split)))


class _Pool(Sequence):
  """Conversations of a split, read when looked at."""

  def __init__(
    self,
    documents: prepared.Prepared,
    places: np.ndarray,
    read: Callable[[str], Conversation],
  ):
    self._documents, self._places, self._read = documents, places, read

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, i: int) -> Conversation:  # type: ignore[override]
    return self._read(self._documents[int(self._places[i])])
