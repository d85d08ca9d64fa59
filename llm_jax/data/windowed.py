"""Questions about texts: token ids, windows, rows.

Rows are as `framing` has them, the question first. `mask_BT` has the positions
of the window and the one that stands for no answer; `start_B` and `end_B` are
the first and last token of the answer, both of them that one where the window
has none. `row_B` is the number of the row in its split.

Dimension key: T positions; N questions; C texts; R rows.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from llm_jax.contracts import Progress, Tokenizer
from llm_jax.data import marked, prepared, splits
from llm_jax.data.each_once import EachOnce
from llm_jax.data.framing import Frame
from llm_jax.data.packing import Row
from llm_jax.data.passage import from_json, Passage

_TOGETHER = 256  # questions given to the tokenizer at once


class Part(NamedTuple):
  """One split of a source."""

  question: np.ndarray  # ids of all questions, one after another
  question_N: np.ndarray  # [N + 1], where those of each begin
  context: np.ndarray  # ids of all texts, one after another
  context_C: np.ndarray  # [C + 1], where those of each begin
  place: np.ndarray  # [ids, 2], characters that each id of a text stands for
  text_N: np.ndarray  # number of the text of each question
  answer_N2: np.ndarray  # its first and last token in the text; -1 = none
  document_N: np.ndarray  # which prepared document each is

  def __len__(self) -> int:
    return len(self.text_N)


class Windows(NamedTuple):
  """Rows: of which question each is, and which tokens of its text it has."""

  question_R: np.ndarray
  first_R: np.ndarray
  last_R: np.ndarray  # behind the last
  begin_R: np.ndarray  # position of the first in the row


class Corpus(marked.Corpus):
  """Prepared questions."""

  def _told(self, line: str) -> tuple[str, str]:
    found = from_json(line)
    return found.of(self._shares), f"{found.question}\n{found.context}"

  def tokenise(self, tokenizer: Tokenizer, progress: Progress) -> "Windowed":
    """Token ids of every split, or those in the cache."""
    make = lambda lines: _tokenised(
      map(from_json, lines), tokenizer, self._shares
    )
    parts = self.parts("passages-1", Part, make, tokenizer, progress)
    return Windowed(self._settings, self._documents, tokenizer, parts)


class _Written:
  """A split as it comes."""

  def __init__(self) -> None:
    self.question: list[int] = []
    self.question_N, self.context_C = [0], [0]
    self.context: list[np.ndarray] = []
    self.place: list[np.ndarray] = []
    self.text_N: list[int] = []
    self.answer_N2: list[tuple[int, int]] = []
    self.document_N: list[int] = []
    self.last = ""  # the text before

  def part(self) -> Part:
    none = np.zeros((0, 2), np.int32)
    return Part(
      np.array(self.question, np.int32),
      np.array(self.question_N, np.int64),
      np.concatenate([none[:, 0], *self.context]).astype(np.int32),
      np.array(self.context_C, np.int64),
      np.concatenate([none, *self.place]),
      np.array(self.text_N, np.int64),
      np.array(self.answer_N2, np.int64).reshape(-1, 2),
      np.array(self.document_N, np.int64),
    )


def _tokenised(
  passages: Iterator[Passage], tokenizer: Tokenizer, shares: splits.Shares
) -> dict[str, Part]:
  found = {split: _Written() for split in splits.SPLITS}
  numbered = enumerate(passages)
  while batch := list(itertools.islice(numbered, _TOGETHER)):
    questions = tokenizer.encode_batch([p.question for _, p in batch])
    # Questions of one text follow each other, and it is read once.
    texts = list(dict.fromkeys(p.context for _, p in batch))
    located = dict(zip(texts, tokenizer.locate(texts), strict=True))
    for (n, passage), ids in zip(batch, questions, strict=True):
      out, its = found[passage.of(shares)], located[passage.context]
      if passage.context != out.last or not out.text_N:
        out.last = passage.context
        out.context.append(np.array(its.ids, np.int32))
        out.place.append(its.place_N2)
        out.context_C.append(out.context_C[-1] + len(its.ids))
      out.question += ids
      out.question_N.append(len(out.question))
      out.text_N.append(len(out.context_C) - 2)
      out.answer_N2.append(answer(passage, its.place_N2))
      out.document_N.append(n)
  return {split: its.part() for split, its in found.items()}


def answer(passage: Passage, place_N2: np.ndarray) -> tuple[int, int]:
  """The first and the last piece that stand for some of the first answer.

  (-1, -1) where there is none. ValueError where no piece stands for it.
  """
  if not passage.answers:
    return -1, -1
  text, at = passage.answers[0]
  begin = at + len(text) - len(text.lstrip())
  end = at + len(text.rstrip())
  first = int(np.searchsorted(place_N2[:, 1], begin, side="right"))
  last = int(np.searchsorted(place_N2[:, 0], end, side="left")) - 1
  if first > last:
    raise ValueError(
      f"question {passage.id}: the tokenizer has no token for its answer"
      f" {text!r:.60}"
    )
  return first, last


class Windowed(marked.Marked):
  """Questions by source and split.

  Attributes:
    none_first: whether the first position stands for no answer, else the last.
    has_none: whether questions of the training split are without an answer.
  """

  def __init__(
    self,
    settings: Any,
    documents: list[prepared.Prepared],
    tokenizer: Tokenizer,
    parts: list[dict[str, Part]],
  ):
    super().__init__(settings, documents, tokenizer)
    self._parts = parts
    self._frame = Frame.of(tokenizer, settings.between, settings.source)
    asked = [np.diff(p[s].question_N) for p in parts for s in splits.SPLITS]
    most = max(int(sizes.max(initial=0)) for sizes in asked)
    longest = min(most, settings.question)
    room = settings.length - longest - self._frame.added(True)
    if room <= settings.overlap:
      raise ValueError(
        f"--data.overlap={settings.overlap}: beside a question of"
        f" {longest} tokens, --data.length={settings.length} has room for a"
        f" window of {max(room, 0)}, which must be more"
      )
    notes = [note for s in splits.SPLITS if (note := self._parted(s))]
    cut = sum(int((sizes > settings.question).sum()) for sizes in asked)
    if cut:
      notes.insert(
        0,
        f"--data.question={settings.question}: {cut} of"
        f" {sum(map(len, asked))} questions are longer, the longest {most}"
        " tokens; their ends are not read",
      )
    self.notes = notes
    self.none_first = settings.none_at == "first"
    train = [p["train"] for p in parts if len(p["train"])]
    self.has_none = any((p.answer_N2 < 0).any() for p in train)

  def passages(self, split: str) -> dict[str, Passage]:
    """All questions of a split by id, in the order of their numbers.

    ValueError where two sources have questions of the same id.
    """
    found = [
      from_json(documents[n])
      for documents, parts in zip(self._documents, self._parts, strict=True)
      for n in parts[split].document_N.tolist()
    ]
    out = {its.id: its for its in found}
    if len(out) < len(found):
      raise ValueError("--data.sources: several have questions of the same id")
    return out

  def windows(self, split: str) -> tuple[Windows, np.ndarray]:
    """All rows of a split by number, and where their tokens stand.

    Returns:
      windows; numbers of their questions count those of all sources.
      place_RT2  characters of the text that each position stands for, [R]
        arrays of [window, 2]
    """
    found, places, before = [], np.empty(0, object), 0
    for parts in self._parts:
      part = parts[split]
      its = self._windows(part)
      starts = part.context_C[part.text_N[its.question_R]]
      here = np.empty(len(starts), object)
      for r, start in enumerate(starts.tolist()):
        here[r] = part.place[start + its.first_R[r] : start + its.last_R[r]]
      places = np.concatenate([places, here])
      found.append(its._replace(question_R=its.question_R + before))
      before += len(part)
    joined = (np.concatenate(x) for x in zip(*found, strict=True))
    return Windows(*joined), places

  def _windows(self, part: Part) -> Windows:
    s = self._settings
    asked_N = np.minimum(np.diff(part.question_N), s.question)
    size_N = np.diff(part.context_C)[part.text_N]
    room_N = s.length - asked_N - self._frame.added(True)
    step_N = room_N - s.overlap
    # As many as reach the end: the last one begins where `room` may not.
    count_N = 1 + np.maximum(-(-(size_N - room_N) // step_N), 0)
    question_R = np.repeat(np.arange(len(part)), count_N)
    nth_R = np.arange(len(question_R)) - np.repeat(
      np.cumsum(count_N) - count_N, count_N
    )
    first_R = nth_R * step_N[question_R]
    last_R = np.minimum(first_R + room_N[question_R], size_N[question_R])
    begin_R = self._frame.before + asked_N[question_R] + s.between
    return Windows(question_R, first_R, last_R, begin_R)

  def _parted(self, split: str) -> str:
    """What is said of answers that no window has all of."""
    sizes, lost = [], 0
    for part in (parts[split] for parts in self._parts):
      question_R, first_R, last_R, _ = self._windows(part)
      begin_N, end_N = part.answer_N2.T
      whole_R = (first_R <= begin_N[question_R]) & (end_N[question_R] < last_R)
      windows_N = np.bincount(question_R, whole_R, len(part))
      there_N = begin_N >= 0
      sizes.append((end_N - begin_N + 1)[there_N])
      lost += int((there_N & (windows_N == 0)).sum())
    if not lost:
      return ""
    size_N = np.concatenate(sizes)
    return (
      f"--data.overlap={self._settings.overlap}: {lost} of {len(size_N)}"
      f" answers of the {split} split are in no window whole, the longest"
      f" {size_N.max()} tokens; their windows are taken to have none"
    )

  def _rows(
    self, source: int, split: str, seed: Sequence[int] | None
  ) -> EachOnce:
    s, part = self._settings, self._parts[source][split]
    windows = self._windows(part)
    earlier = [p[split] for p in self._parts[:source]]
    before = sum(len(self._windows(p).question_R) for p in earlier)

    number = lambda x: np.array(x, np.int32)

    def make(r: int) -> Row:
      n, first, last, begin = (int(x[r]) for x in windows)
      asked = part.question[part.question_N[n] : part.question_N[n + 1]]
      start = int(part.context_C[part.text_N[n]])
      text = part.context[start + first : start + last]
      framed = self._frame(asked[: s.question], text)
      out = framed.row(s.length)
      none = 0 if s.none_at == "first" else len(framed.ids) - 1
      out["mask_BT"][begin : begin + len(text)] = True
      out["mask_BT"][none] = True
      a, b = part.answer_N2[n].tolist()
      inside = first <= a and b < last
      return out | {
        "start_B": number(a - first + begin if inside else none),
        "end_B": number(b - first + begin if inside else none),
        "row_B": number(r + before),
      }

    size_R = windows.begin_R + windows.last_R - windows.first_R + 1
    return EachOnce(make, size_R, seed)
