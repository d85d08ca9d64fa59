"""Judged completions -> rows to train on, and a journal of those judged."""

from collections.abc import Iterator, Sequence
import dataclasses
import fcntl
import json
import os
import pathlib
from typing import Any, Literal

from llm_jax.config import field
from llm_jax.data.conversation import Message
from llm_jax.data.preference import Preference

_BEGINNING = b'{"about": '  # of a journal


@dataclasses.dataclass(frozen=True)
class Labels:
  """What the verb `label` asks of a run, and makes of the verdicts."""

  split: Literal["all", "train", "validation", "test"] = field(
    "all", "whose prompts; a row keeps the split of its prompt"
  )
  prompts: int = field(0, "how many prompts, at most; 0 = all", low=0)
  completions: int = field(4, "completions drawn for each prompt", low=1)
  reference: bool = field(
    False, "the known answer to a prompt is one completion more"
  )
  labeller: str = field(
    "", "name of the judge in the rows, to compare several; empty = none"
  )
  keep: int = field(
    1, "with --best: completions of a prompt that are kept, at most", low=1
  )
  accept: float | None = field(
    None, "with --best: score that a completion must have; none = any"
  )


@dataclasses.dataclass(frozen=True)
class Judged:
  """Completions of a prompt and what a judge says of them."""

  prompt: tuple[Message, ...]
  completions: tuple[str, ...]  # all different, none empty
  scores: tuple[float, ...]
  ordinal: bool = False
  reason: str = ""
  place: float | None = None
  task: str = ""

  def preference(self, labeller: str = "") -> Preference | None:
    """As a preference; None where no completion is better than another."""
    if len(set(self.scores)) < 2:
      return None
    return Preference(
      self.prompt,
      self.completions,
      "order" if self.ordinal else "score",
      (self.scores,),
      (labeller,) if labeller else (),
      place=self.place,
      task=self.task,
    )

  def rows(self, labeller: str = "") -> list[dict[str, Any]]:
    """As rows that a source of preferences reads, with the judge's reason."""
    found = self.preference(labeller)
    more = {"reason": self.reason} if self.reason else {}
    return [row | more for row in found.rows()] if found else []

  def best(
    self, keep: int = 1, accept: float | None = None
  ) -> list[dict[str, Any]]:
    """The best completions as rows that a source of conversations reads.

    Of those as good the one drawn first comes first.

    Args:
      keep: how many at most.
      accept: scores below it are left out.
    """
    order = sorted(range(len(self.scores)), key=lambda i: -self.scores[i])
    more = {} if self.place is None else {"place": self.place}
    return [
      {
        **more,
        "messages": [
          *(m._asdict() for m in self.prompt),
          {"role": "assistant", "content": self.completions[i]},
        ],
        "score": self.scores[i],
      }
      for i in order[:keep]
      if accept is None or self.scores[i] >= accept
    ]


class Journal:
  """A file to which each prompt is written as soon as it is judged.

  Its first line tells what decides the verdicts. A last line that was cut
  short by the end of its writer is dropped.

  Args:
    path: of the file; made if it is not there.
    about: what decides the verdicts, as JSON values.
    flag: what names the file, for errors.

  Raises:
    ValueError: it was made by other settings, is no journal, is being written
      by another process, or cannot be written.
  """

  def __init__(self, path: pathlib.Path, about: dict[str, Any], flag: str):
    self._path, self._flag = path, flag
    self._found: dict[str, Judged] = {}
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      self._file = path.open("a+b")
    except OSError as e:
      raise ValueError(f"{flag}: cannot be written ({e.strerror})") from e
    try:
      self._lock()
      self._read(json.loads(json.dumps(about)))
    except BaseException:
      self._file.close()
      raise

  def __contains__(self, key: str) -> bool:
    return key in self._found

  def __getitem__(self, key: str) -> Judged:
    return self._found[key]

  def add(self, key: str, judged: Judged) -> None:
    """Writes one prompt through to the disk."""
    self._write({"key": key, **dataclasses.asdict(judged)})
    self._found[key] = judged

  def close(self) -> None:
    """Others may write from here on."""
    self._file.close()

  def __enter__(self) -> "Journal":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def _lock(self) -> None:
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise ValueError(
        f"{self._flag}: another process is labelling into it"
      ) from e
    except OSError:  # some network folders know no locks
      return

  def _read(self, about: dict[str, Any]) -> None:
    self._file.seek(0)
    lines = self._file.read().split(b"\n")
    size, cut = self._file.tell(), lines.pop()
    try:
      if not lines and not _BEGINNING.startswith(cut[: len(_BEGINNING)]):
        raise ValueError(cut[:20])
      there = json.loads(lines[0])["about"] if lines else about
      for row in map(json.loads, lines[1:]):
        key = row.pop("key")
        self._found[key] = _judged(**row)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
      raise ValueError(f"{self._path}: not a journal of labels ({e!r})") from e
    if cut:
      self._file.truncate(size - len(cut))
    if not lines:
      self._write({"about": about})
      return
    old, new = (dict(_leaves(x)) for x in (there, about))
    differ = [n for n in {**old, **new} if old.get(n) != new.get(n)]
    if differ:
      listed = "; ".join(
        f"{n}: {old.get(n)!r:.40} there, {new.get(n)!r:.40} here"
        for n in differ
      )
      raise ValueError(
        f"{self._flag}: is being labelled with other settings ({listed}); name"
        f" another file, or remove {self._path}"
      )

  def _write(self, row: dict[str, Any]) -> None:
    self._file.write(json.dumps(row).encode() + b"\n")
    self._file.flush()
    os.fsync(self._file.fileno())


def _judged(
  prompt: Sequence[Any],
  completions: Sequence[str],
  scores: Sequence[float],
  **more: Any,
) -> Judged:
  messages = tuple(Message(*m) for m in prompt)
  return Judged(messages, tuple(completions), tuple(scores), **more)


def _leaves(about: Any, name: str = "") -> Iterator[tuple[str, Any]]:
  """(dotted name, value) of all that is in mappings."""
  if not isinstance(about, dict):
    yield name, about
    return
  for part, value in about.items():
    yield from _leaves(value, f"{name}.{part}" if name else part)
