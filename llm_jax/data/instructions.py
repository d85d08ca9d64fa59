"""Conversations as training data: sources, shares, templates, packing."""

from collections.abc import Callable
import dataclasses
from typing import Any, Literal

import numpy as np

from llm_jax.config import field
from llm_jax.contracts import Progress, Share, Tokenizer
from llm_jax.data import (
  answer_rows,
  batches,
  chat,
  conversation_tokens,
  packing,
  prepared,
  questions,
  splits,
  tokens,
  trained_tokens,
)
from llm_jax.data.conversation import Conversation, from_json, Message
from llm_jax.data.conversations import Conversations, TFDSConversations
from llm_jax.data.questions import Questions
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_tasks import StdlibTasks
from llm_jax.data.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Instructions(Questions):
  """Weighted sources of conversations, of which the answers are learned."""

  sources: tuple[StdlibTasks | Conversations | TFDSConversations, ...] = (
    StdlibTasks(),
  )
  packing: Literal["best_fit", "one"] = field(
    "best_fit", "whole conversations packed into rows, or one a row"
  )
  too_long: Literal["error", "cut", "drop"] = field(
    "error", "what is done with a conversation that is longer than a row"
  )
  source: SourceSide = SourceSide()

  def prepare(self, progress: Progress) -> "Corpus":
    """Reads every source once, or finds it in the cache."""
    return Corpus(self, self.sources, progress)


def encoder(template: str, tokenizer: Tokenizer) -> Callable[[str], list[int]]:
  """Question -> ids up to where the answer begins, as in training."""
  chosen = chat.Template(template)

  def encode(question: str) -> list[int]:
    asked = Conversation((Message("user", question),))
    return conversation_tokens.beginning([asked], tokenizer, chosen)[0]

  return encode


class Corpus(questions.Corpus):
  """Prepared conversations, and what is made of them."""

  def _told(self, line: str) -> tuple[float, str]:
    found = from_json(line)
    return found.placed, "\n".join(m.content for m in found.messages)

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Instructed":
    """Token ids of every split, or those in the cache."""
    one = conversation_tokens.tokenise
    by_source = self._tokenised(one, tokenizer, progress)
    return Instructed(
      self._settings, by_source, self._documents, tokenizer, self._template
    )


class Instructed(questions.Asked):
  """Conversations as token ids, the answers trained."""

  def __init__(
    self,
    settings: Questions,
    by_source: list[dict[str, conversation_tokens.Part]],
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    template: chat.Template,
  ):
    super().__init__(settings, documents, tokenizer, template)
    self._by_source = by_source
    self._fitted: list[dict[str, Any]] = [
      {split: self._fit(part.tokens) for split, part in parts.items()}
      for parts in by_source
    ]
    self.notes = [note for s in splits.SPLITS if (note := self._note(s))]

  def held_out(
    self, split: str, batch_size: int, block: Share = (0, 1)
  ) -> batches.Finite:
    """A whole split of all sources, each conversation once."""
    found = self.tokens(split)
    sizes = [len(parts[split].tokens) for parts in self._by_source]
    before = np.cumsum([0, *sizes[:-1]]).tolist()
    moved = [
      f[split].pieces.moved(by)
      for f, by in zip(self._fitted, before, strict=True)
    ]
    pieces = type(moved[0])(*map(np.concatenate, zip(*moved, strict=True)))
    rows = self._made(found, pieces, None)
    return batches.Finite(rows, batch_size, block, widths=self._settings.widths)

  def several(self) -> int:
    """Conversations to train on with more than one answer that is trained."""
    parts = (parts["train"].tokens for parts in self._by_source)
    return sum(map(trained_tokens.several, parts))

  def tokens(self, split: str) -> tokens.Tokens:
    """The token ids of a split of all sources, long conversations whole."""
    self._check(split)
    return tokens.join([parts[split].tokens for parts in self._by_source])

  def _counts(self, split: str) -> list[int]:
    return [len(f[split].pieces.start) for f in self._fitted]

  def _empty(self, split: str, remedy: str) -> str:
    if any(f[split].num_long for f in self._fitted):
      return (
        f"the {split} split is empty: no conversation of it is short enough"
        f" for --data.length={self._settings.length}"
      )
    return f"the {split} split is empty: {remedy}, or give more conversations"

  def _places(self, source: int, split: str, shown: bool) -> np.ndarray:
    places = self._by_source[source][split].places
    return places if shown else places[self._fitted[source][split].kept]

  def _read(self, line: str) -> Conversation:
    return from_json(line)

  def _rows(self, source: int, seed: tuple[int, int]) -> packing.Rows:
    found = self._by_source[source]["train"].tokens
    return self._made(found, self._fitted[source]["train"].pieces, seed)

  def _fit(
    self, found: Tokens
  ) -> conversation_tokens.Fitted | answer_rows.Fitted:
    s = self._settings
    drop = s.too_long != "cut"
    if s.source.length:
      around = s.source.frame(self._tokenizer).around
      return answer_rows.fit(found, s.source.length, s.length, drop, around)
    return conversation_tokens.fit(found, s.length, drop)

  def _made(
    self,
    found: Tokens,
    pieces: packing.Pieces | answer_rows.Answers,
    seed: tuple[int, int] | None,
  ) -> packing.Rows:
    """Rows of conversations, or of their answers with sources apart."""
    s, alone = self._settings, self._settings.packing == "one"
    if isinstance(pieces, packing.Pieces):
      return packing.BestFit(found, s.length, seed, pieces, alone)
    lengths = s.source.length, s.length
    frame = s.source.frame(self._tokenizer)
    return answer_rows.AnswerRows(found, pieces, lengths, frame, seed, alone)

  def _note(self, split: str) -> str:
    """What was done about long conversations; ValueError where none may be."""
    s = self._settings
    long = sum(f[split].num_long for f in self._fitted)
    if not long:
      return ""
    if s.source.length:
      return self._note_apart(split, long)
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

  def _note_apart(self, split: str, long: int) -> str:
    """The same of answers whose sources are apart."""
    s, fitted = self._settings, [f[split] for f in self._fitted]
    source, target = (max(f.longest[i] for f in fitted) for i in (0, 1))
    said = (
      f"--data.source.length={s.source.length} and --data.length={s.length}:"
      f" {long} of {sum(f.num for f in fitted)} answers of the {split} split or"
      f" their sources are longer, the longest {target} and {source} tokens"
    )
    if s.too_long == "error":
      raise ValueError(
        f"{said}; raise them, or set --data.too_long=cut or drop"
      )
    if s.too_long == "drop":
      return f"{said}; they are dropped"
    return f"{said}; they are cut"
