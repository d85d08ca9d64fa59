"""Words with their tags: documents, token ids, rows.

Rows are as `framing` has them, and `tag_BT` has the number of a word's tag at
its first token, where `mask_BT` is True.

Dimension key: T positions; S sentences; W words of a split; R rows.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
from typing import Any, NamedTuple

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import cache, marked, prepared, splits
from llm_jax.data.class_names import ClassNames
from llm_jax.data.each_once import EachOnce
from llm_jax.data.framing import Frame
from llm_jax.data.packing import Row

_TOGETHER = 1024  # sentences given to the tokenizer at once


@dataclasses.dataclass(frozen=True)
class Sentence:
  """Words, each with the name of its tag.

  Attributes:
    split: that it belongs to; empty = by a hash of its words.
    where: it stands, for errors.
  """

  words: tuple[str, ...]
  tags: tuple[str, ...]
  split: str = ""
  where: str = ""

  def __post_init__(self) -> None:
    if len(self.words) != len(self.tags):
      raise ValueError(
        f"{self.where}: {len(self.words)} words and {len(self.tags)} tags; one"
        " for each"
      )
    for word in self.words:
      if not word.strip():
        raise ValueError(f"{self.where}: {word!r} is no word")
    for tag in self.tags:
      if not tag.strip():
        raise ValueError(f"{self.where}: {tag!r} is no tag")

  @property
  def text(self) -> str:
    """The words with a space between."""
    return " ".join(self.words)

  def of(self, shares: splits.Shares) -> str:
    """The split that it is in."""
    return self.split or shares.of(self.text)

  def to_json(self) -> str:
    """One line of text."""
    return json.dumps(dataclasses.asdict(self))


def from_json(line: str) -> Sentence:
  """The inverse of `Sentence.to_json`."""
  found = json.loads(line)
  words, tags = tuple(found.pop("words")), tuple(found.pop("tags"))
  return Sentence(words, tags, **found)


class Part(NamedTuple):
  """One split of a source."""

  ids: np.ndarray  # of all sentences, one after another
  begin_S: np.ndarray  # [S + 1], where those of each begin
  word_S: np.ndarray  # [S + 1], number of the first word of each
  document_S: np.ndarray  # which prepared document each is
  piece_W: np.ndarray  # where the first token of each word stands in `ids`
  tag_W: np.ndarray  # its name


class _Rows(NamedTuple):
  """Parts of sentences, each short enough: words and ids, from and to."""

  sentence_R: np.ndarray
  word_R2: np.ndarray
  id_R2: np.ndarray


class Corpus(marked.Corpus):
  """Prepared sentences."""

  def _told(self, line: str) -> tuple[str, str]:
    found = from_json(line)
    return found.of(self._shares), found.text

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Tagged":
    """Token ids of every split, or those in the cache."""
    make = lambda lines: _tokenised(
      map(from_json, lines), tokenizer, self._shares
    )
    parts = self.parts("tags-1", Part, make, tokenizer, progress)
    return Tagged(self._settings, self._documents, tokenizer, parts)


def _tokenised(
  sentences: Iterator[Sentence], tokenizer: Tokenizer, shares: splits.Shares
) -> dict[str, Part]:
  lists: dict[str, Any] = {
    s: {"ids": [], "begin": [0], "word": [0], "at": [], "piece": [], "tag": []}
    for s in splits.SPLITS
  }
  numbered = enumerate(sentences)
  while batch := list(itertools.islice(numbered, _TOGETHER)):
    located = tokenizer.locate([s.text for _, s in batch])
    for (n, sentence), found in zip(batch, located, strict=True):
      out = lists[sentence.of(shares)]
      first = first_pieces(sentence, found.place_N2)
      out["piece"] += (first + out["begin"][-1]).tolist()
      out["ids"] += found.ids
      out["tag"] += sentence.tags
      out["at"].append(n)
      out["begin"].append(len(out["ids"]))
      out["word"].append(len(out["tag"]))
  return {
    split: Part(
      np.array(its["ids"], np.int32),
      np.array(its["begin"], np.int64),
      np.array(its["word"], np.int64),
      np.array(its["at"], np.int64),
      np.array(its["piece"], np.int64),
      np.array(its["tag"], np.str_),
    )
    for split, its in lists.items()
  }


def first_pieces(sentence: Sentence, place_N2: np.ndarray) -> np.ndarray:
  """Number of the first piece that stands for some of each word.

  Raises:
    ValueError: a word that no piece stands for, or none of its own.
  """
  size = np.array([len(w) for w in sentence.words])
  end = np.cumsum(size + 1) - 1
  first = np.searchsorted(place_N2[:, 1], end - size, side="right")
  none = first == len(place_N2)
  begins = place_N2[np.minimum(first, len(place_N2) - 1), 0]
  bad = none | (begins >= end) | (np.diff(first, prepend=-1) == 0)
  if bad.any():
    word = sentence.words[int(bad.argmax())]
    raise ValueError(
      f"{sentence.where}: the tokenizer has no token for {word!r}, a word with"
      " a tag; take it out, or join it to another"
    )
  return first


class Tagged(marked.Marked):
  """Sentences by source and split; `classes` are the names of tags."""

  def __init__(
    self,
    settings: Any,
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    parts: list[dict[str, Part]],
  ):
    super().__init__(settings, documents, tokenizer)
    self._parts = parts
    self._frame = Frame.of(tokenizer, source=settings.source)
    given = settings.classes
    if given:
      self._names = ClassNames(given, by_number=True)
    else:
      tags = [t for p in parts for t in np.unique(p["train"].tag_W).tolist()]
      self._names = ClassNames.found(tags)
    self.classes = self._names.names
    if len(self.classes) < 2:
      raise ValueError(
        f"the train split has {len(self.classes)} tags"
        f" ({self._names.said or 'none'}), and nothing is told apart;"
        " --data.classes names them"
      )
    self.identity = cache.fingerprint(self.identity, *self.classes)

  def sentences(self, split: str) -> list[Sentence]:
    """All of a split, in the order of `held_out`, tags by their names."""
    found = []
    for documents, parts in zip(self._documents, self._parts, strict=True):
      for n in parts[split].document_S.tolist():
        its = from_json(documents[n])
        numbers = map(self._names.number, its.tags)
        tags = tuple(self.classes[i or 0] for i in numbers)
        found.append(dataclasses.replace(its, tags=tags))
    return found

  def train_counts(self) -> dict[str, dict[str, int]]:
    """How often each word of the training split has each tag."""
    counts: dict[str, dict[str, int]] = {}
    for sentence in self.sentences("train"):
      for word, tag in zip(sentence.words, sentence.tags, strict=True):
        its = counts.setdefault(word, {})
        its[tag] = its.get(tag, 0) + 1
    return counts

  def _rows(
    self, source: int, split: str, seed: Sequence[int] | None
  ) -> EachOnce:
    part = self._parts[source][split]
    tag_W = self._numbers(part, split)
    s, frame = self._settings, self._frame
    rows = _cut(part, s.length - frame.added(False))
    words = [len(p[split].tag_W) for p in self._parts[:source]]
    before = int(sum(words))  # words of sources before this one

    def make(r: int) -> Row:
      (a, b), (i, j) = rows.id_R2[r].tolist(), rows.word_R2[r].tolist()
      out = frame(part.ids[a:b]).row(s.length)
      at = part.piece_W[i:j] - a + frame.before
      out["mask_BT"][at] = True
      tag_T, word_T = np.zeros((2, s.length), np.int32)
      tag_T[at], word_T[at] = tag_W[i:j], np.arange(i, j) + before
      return out | {"tag_BT": tag_T, "word_BT": word_T}

    size_R = np.diff(rows.id_R2)[:, 0] + frame.added(False)
    return EachOnce(make, size_R, seed)

  def _numbers(self, part: Part, split: str) -> np.ndarray:
    """Of each word's tag; ValueError for one of no number."""
    names, which_W = np.unique(part.tag_W, return_inverse=True)
    found = [self._names.number(name) for name in names.tolist()]
    if None in found:
      name = names[found.index(None)]
      whose = "--data.classes" if self._settings.classes else "the train split"
      raise ValueError(
        f"the {split} split has the tag {str(name)!r}, and {whose} has"
        f" {self._names.said}; --data.classes names all of them"
      )
    return np.array(found, np.int32)[which_W]


def _cut(part: Part, room: int) -> _Rows:
  """Sentences, those longer than the room cut between words."""
  rows = []
  for s in range(len(part.document_S)):
    word, last = int(part.word_S[s]), int(part.word_S[s + 1])
    end = int(part.begin_S[s + 1])
    while word < last:
      a = int(part.piece_W[word])
      if word == part.word_S[s]:
        a = int(part.begin_S[s])
      stop = last
      if end - a > room:  # words that end within it, at least one
        begins = part.piece_W[word + 1 : last]
        stop = word + max(int(np.searchsorted(begins, a + room, "right")), 1)
      b = end if stop == last else int(part.piece_W[stop])
      rows.append((s, word, stop, a, min(b, a + room)))
      word = stop
  found = np.array(rows, np.int64).reshape(-1, 5)
  return _Rows(found[:, 0], found[:, 1:3], found[:, 3:])
