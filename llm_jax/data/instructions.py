"""Conversations as training data: sources, shares, templates, packing."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import pathlib
from typing import Literal, NamedTuple

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Progress, Source, Tokenizer
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
  tokens,
)
from llm_jax.data.conversation import Conversation, from_json, Message
from llm_jax.data.conversations import Conversations, TFDSConversations
from llm_jax.data.stdlib_tasks import StdlibTasks


@dataclasses.dataclass(frozen=True)
class Instructions:
  """Weighted sources of conversations, of which the answers are learned."""

  sources: tuple[StdlibTasks | Conversations | TFDSConversations, ...] = (
    StdlibTasks(),
  )
  weights: tuple[float, ...] = field(
    (), "share of examples from each source; none = as many as it has"
  )
  temperature: float = field(
    1.0, "shares are raised to 1 / this; above 1 = more alike", low=1e-3
  )
  template: str = field(
    "chat",
    "chat = turns between special tokens, plain = prompt, answer, eos; or a"
    " .jinja file",
  )
  length: int = field(256, "T, tokens in a row", low=1)
  packing: Literal["best_fit", "one"] = field(
    "best_fit", "whole conversations packed into rows, or one a row"
  )
  too_long: Literal["error", "cut", "drop"] = field(
    "error", "what is done with a conversation that is longer than a row"
  )
  validation: float = field(0.05, "share held out", low=0, high=1)
  test: float = field(0.0, "second share held out", low=0, high=1)
  cache: str | None = field(
    None, "folder of prepared data; none = ~/.cache/llm_jax"
  )

  def __post_init__(self) -> None:
    mixture.check(self.weights, len(self.sources), self.validation, self.test)

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    template = chat.Template(self.template)
    folder = cache.folder(self.cache)
    documents = [
      mixture.of_source(i, prepared.prepare, s, folder, progress)
      for i, s in enumerate(self.sources)
    ]
    return Corpus(self, folder, documents, template)


def encoder(template: str, tokenizer: Tokenizer) -> Callable[[str], list[int]]:
  """Question -> ids up to where the answer begins, as in training."""
  chosen = chat.Template(template)

  def encode(question: str) -> list[int]:
    asked = Conversation((Message("user", question),))
    return conversation_tokens.beginning([asked], tokenizer, chosen)[0]

  return encode


class Corpus:
  """Prepared conversations, and what is made of them."""

  def __init__(
    self,
    settings: Instructions,
    folder: pathlib.Path,
    documents: list[prepared.Prepared],
    template: chat.Template,
  ):
    self._settings, self._folder = settings, folder
    self._documents, self._template = documents, template
    self._shares = splits.Shares("hash", settings.validation, settings.test)

  def texts(self, split: str) -> Iterator[str]:
    """What is said in a split; any beginning is a fair sample."""
    places = [(d, i) for d in self._documents for i in range(len(d))]
    for n in np.random.default_rng(0).permutation(len(places)).tolist():
      documents, i = places[n]
      found = from_json(documents[i])
      if self._shares.at(found.placed) == split:
        yield "\n".join(m.content for m in found.messages)

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Instructed":
    """Token ids of every split, or those in the cache."""
    by_source = [
      conversation_tokens.tokenise(
        d, self._shares, tokenizer, self._template, self._folder, progress
      )
      for d in self._documents
    ]
    return Instructed(
      self._settings, by_source, self._documents, tokenizer, self._template
    )


class Example(NamedTuple):
  """A question whose answer is known."""

  prompt_ids: list[int]  # what stands before the answer; no start id
  reference: str
  conversation: Conversation  # whole, without the examples shown before it


class Instructed:
  """Token ids by source and split; the same methods as `text.Tokenised`.

  Attributes:
    identity: changes with the conversations, tokenizer and template.
    notes: what was done about conversations that are too long, in words.
  """

  def __init__(
    self,
    settings: Instructions,
    by_source: list[dict[str, conversation_tokens.Part]],
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    template: chat.Template,
  ):
    self._settings, self._by_source = settings, by_source
    self._documents, self._tokenizer = documents, tokenizer
    self._template = template
    self.identity = cache.fingerprint(
      tokenizer.fingerprint, template.source, *(d.identity for d in documents)
    )
    self._fitted = [
      {
        split: conversation_tokens.fit(
          part.tokens, settings.length, settings.too_long != "cut"
        )
        for split, part in parts.items()
      }
      for parts in by_source
    ]
    self.notes = [note for s in splits.SPLITS if (note := self._note(s))]

  def train(
    self, batch_size: int, seed: int, block: tuple[int, int] = (0, 1)
  ) -> Source:
    """Endless training batches; `block` is this process's (index, count)."""
    self.tokens("train")  # or say that it is empty
    rows = [
      mixture.of_source(i, self._rows, i, (seed, i))
      for i in range(len(self._by_source))
    ]
    # A row of short conversations holds more of them.
    weights = [
      share * len(r) / len(f["train"].kept)
      for share, r, f in zip(self.shares(), rows, self._fitted, strict=True)
    ]
    return batches.Offline(rows, weights, batch_size, block)

  def shares(self) -> list[float]:
    """Share of training examples from each source; they sum to 1."""
    s = self._settings
    counts = [len(fitted["train"].kept) for fitted in self._fitted]
    raised = np.power(s.weights or counts, 1 / s.temperature)
    return (raised / raised.sum()).tolist()

  def held_out(
    self, split: str, batch_size: int, block: tuple[int, int] = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each conversation once."""
    s = self._settings
    found = self.tokens(split)
    fitted = [f[split].pieces for f in self._fitted]
    sizes = [len(parts[split].tokens) for parts in self._by_source]
    starts = np.cumsum([0, *sizes[:-1]])
    pieces = packing.Pieces(
      np.concatenate(
        [p.start + at for p, at in zip(fitted, starts, strict=True)]
      ),
      np.concatenate([p.size for p in fitted]),
      np.concatenate([p.is_first for p in fitted]),
    )
    rows = packing.BestFit(found, s.length, None, pieces, s.packing == "one")
    return batches.Finite(rows, batch_size, block)

  def tokens(self, split: str) -> tokens.Tokens:
    """The token ids of a split of all sources, long conversations whole."""
    if split not in splits.SPLITS:
      raise ValueError(
        f"--validation.split={split}: one of {', '.join(splits.SPLITS)}"
      )
    if not any(len(f[split].kept) for f in self._fitted):
      if any(f[split].num_long for f in self._fitted):
        raise ValueError(
          f"the {split} split is empty: no conversation of it is short enough"
          f" for --data.length={self._settings.length}"
        )
      change = "lower" if split == "train" else "raise"
      flags = "validation and --data.test" if split == "train" else split
      raise ValueError(
        f"the {split} split is empty: {change} --data.{flags}, or give more"
        " conversations"
      )
    return tokens.join([parts[split].tokens for parts in self._by_source])

  def examples(
    self, split: str, limit: int | None = None, shots: int = 0
  ) -> list[Example]:
    """Questions of a split, the same ones each time.

    Args:
      split: of all sources; conversations that are left out there are so here.
      limit: how many at most; None = all. Any are a fair sample.
      shots: answered ones of the train split shown before each.
    """
    self.tokens(split)
    places = [
      (source, int(i))
      for source, fitted in enumerate(self._fitted)
      for i in self._by_source[source][split].places[fitted[split].kept]
    ]
    chosen = np.random.default_rng(0).permutation(len(places))[:limit]
    found, asked = [], []
    for source, i in (places[n] for n in chosen.tolist()):
      conversation = from_json(self._documents[source][i])
      found.append(conversation)
      pool = _Pool(self._documents[source], self._by_source[source]["train"])
      asked.append(few_shot.show(conversation.question, pool, shots))
    ids = conversation_tokens.beginning(asked, self._tokenizer, self._template)
    return [Example(i, c.answer, c) for i, c in zip(ids, found, strict=True)]

  def _rows(self, source: int, seed: tuple[int, int]) -> packing.Rows:
    s = self._settings
    return packing.BestFit(
      self._by_source[source]["train"].tokens,
      s.length,
      seed,
      self._fitted[source]["train"].pieces,
      s.packing == "one",
    )

  def _note(self, split: str) -> str:
    """What was done about long conversations; ValueError where none may be."""
    s = self._settings
    long = sum(f[split].num_long for f in self._fitted)
    if not long:
      return ""
    lost = sum(f[split].num_lost for f in self._fitted)
    found = [np.diff(parts[split].tokens.offsets) for parts in self._by_source]
    said = (
      f"--data.length={s.length}: {long} of {sum(map(len, found))}"
      f" conversations of the {split} split are longer, the longest"
      f" {max(int(n.max()) for n in found if len(n))} tokens"
    )
    if s.too_long == "error":
      raise ValueError(f"{said}; raise it, or set --data.too_long=cut or drop")
    if s.too_long == "drop":
      return f"{said}; they are dropped"
    return f"{said}; they are cut, and {lost} with no answer left are dropped"


class _Pool(Sequence):
  """Conversations of a split, read when looked at."""

  def __init__(
    self, documents: prepared.Prepared, part: conversation_tokens.Part
  ):
    self._documents, self._places = documents, part.places

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, i: int) -> Conversation:  # type: ignore[override]
    return from_json(self._documents[int(self._places[i])])
