"""Preferences as token ids: made once, then read from a memory map."""

from collections.abc import Iterator
import dataclasses
import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np

from llm_jax.data import agreement, chat, trained_tokens
from llm_jax.data.preference import from_json, Preference
from llm_jax.data.prepared import Prepared
from llm_jax.data.splits import SPLITS
from llm_jax.data.tokens import Tokens

_TOGETHER = 256  # preferences given to the tokenizer at once


class Part(NamedTuple):
  """One split of a source.

  A completion is a document of `tokens` together with its prompt. Those of a
  preference follow each other.
  """

  tokens: Tokens
  begin: np.ndarray  # [completions], ids of the prompt before each
  first: np.ndarray  # [preferences + 1], its first completion
  places: np.ndarray  # [preferences], where each is among the prepared ones
  pairs: np.ndarray  # [pairs, 2], completions: chosen, rejected
  margins: np.ndarray  # [pairs] f32
  ranks: np.ndarray  # [completions], 0 = the best of its preference
  likes: np.ndarray  # [completions], 1 = liked, 0 = disliked, -1 = neither
  classes: np.ndarray  # [completions], -1 = none; of likes the same as `likes`


class Tokenised(NamedTuple):
  """The splits of a source, and what was seen in it."""

  parts: dict[str, Part]
  num_faulty: int
  fault: str  # of the first faulty one
  num_ties: int
  judged: agreement.Judged


def tokenise(documents: Prepared, how: trained_tokens.How) -> Tokenised:
  """Token ids by split, made in the cache if they are not there."""
  write = _Writer(how).write
  final = trained_tokens.kept("preferences-2", documents, how, write)
  parts = {}
  for split in SPLITS:
    with np.load(final / f"{split}.npz") as saved:
      arrays = dict(saved)
    offsets = arrays.pop("offsets")
    found = trained_tokens.of_split(final, split, offsets, how.tokenizer)
    parts[split] = Part(found, **arrays)
  about = json.loads((final / "about.json").read_text(encoding="utf-8"))
  about["judged"] = agreement.Judged(**about["judged"])
  return Tokenised(parts, **about)


@dataclasses.dataclass
class _Split:
  """What is known of a split so far."""

  writer: trained_tokens.Writer
  first: list[int] = dataclasses.field(default_factory=lambda: [0])
  begin: list[int] = dataclasses.field(default_factory=list)
  places: list[int] = dataclasses.field(default_factory=list)
  pairs: list[tuple[int, int]] = dataclasses.field(default_factory=list)
  margins: list[float] = dataclasses.field(default_factory=list)
  ranks: list[int] = dataclasses.field(default_factory=list)
  likes: list[int] = dataclasses.field(default_factory=list)
  classes: list[int] = dataclasses.field(default_factory=list)

  def arrays(self) -> dict[str, np.ndarray]:
    whole = ("first", "begin", "places", "ranks", "likes", "classes")
    return {name: np.array(getattr(self, name), np.int64) for name in whole} | {
      "offsets": np.array(self.writer.offsets, np.int64),
      "pairs": np.array(self.pairs, np.int64).reshape(-1, 2),
      "margins": np.array(self.margins, np.float32),
    }


class _Writer:
  """Ids as they come, then everything else."""

  def __init__(self, how: trained_tokens.How):
    self._how = how
    self._num_ties = self._num_faulty = 0
    self._fault = ""
    self._judgements = agreement.Judgements()

  def write(self, lines: Iterator[str], folder: pathlib.Path) -> None:
    with trained_tokens.writers(folder, self._how.tokenizer) as opened:
      splits = {name: _Split(writer) for name, writer in opened.items()}
      at = 0
      while batch := list(itertools.islice(lines, _TOGETHER)):
        self._add([from_json(line) for line in batch], at, splits)
        at += len(batch)
    for name, split in splits.items():
      np.savez(folder / f"{name}.npz", **split.arrays())  # type: ignore[arg-type]
    about = {
      "num_faulty": self._num_faulty,
      "fault": self._fault,
      "num_ties": self._num_ties,
      "judged": self._judgements.judged()._asdict(),
    }
    text = json.dumps(about)
    (folder / "about.json").write_text(text, encoding="utf-8")

  def _add(
    self, batch: list[Preference], at: int, splits: dict[str, _Split]
  ) -> None:
    """Preferences, the first of which is the `at`-th prepared one."""
    pieces: list[list[chat.Piece]] = []
    counts = []
    for p in batch:
      begin = [] if p.fault else self._how.template.pieces(p.prompt, True)
      counts.append(len(pieces))
      pieces.append(begin)
      for i in range(len(p.completions)):
        messages = p.conversation(i).messages
        whole = self._how.template.pieces(messages)
        if whole[: len(begin)] != begin:
          raise ValueError(
            "--data.template: a prompt to be answered is not how the prompt"
            f" with an answer begins: {messages[-2:][0].content!r:.60}"
          )
        pieces.append(whole)
    encoded = chat.encode(pieces, self._how.tokenizer)
    for place, (p, start) in enumerate(zip(batch, counts, strict=True), at):
      if p.fault:
        self._num_faulty += 1
        self._fault = self._fault or p.fault
        continue
      split = splits[self._how.shares.at(p.placed)]
      found = encoded[start + 1 : start + 1 + len(p.completions)]
      self._one(p, place, len(encoded[start].ids), found, split)

  def _one(
    self,
    p: Preference,
    place: int,
    begin: int,
    encoded: list[chat.Encoded],
    split: _Split,
  ) -> None:
    first = split.first[-1]
    for ids, trained in encoded:
      trained = [False] * begin + trained[begin:]  # earlier answers are not
      split.writer.add(ids, trained)
    split.begin += [begin] * len(encoded)
    split.first.append(first + len(encoded))
    split.places.append(place)
    pairs, margins, num_ties = p.pairs()
    split.pairs += [(first + w, first + l) for w, l in pairs]
    split.margins += margins
    split.ranks += p.ranks()
    split.likes += [-1 if like is None else int(like) for like in p.likes()]
    split.classes += [-1 if c is None else c for c in p.classes()]
    self._num_ties += num_ties
    self._judgements.add(p)
