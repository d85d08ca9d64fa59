"""Which documents train, validate and test."""

from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
from typing import Literal

SPLITS = ("train", "validation", "test")


def check(split: str) -> None:
  """ValueError where there is no such split."""
  if split not in SPLITS:
    raise ValueError(f"--validation.split={split}: one of {', '.join(SPLITS)}")


def remedy(split: str) -> str:
  """Which flags give an empty split something."""
  if split == "train":
    return "lower --data.validation and --data.test"
  return f"raise --data.{split}"


def place(text: str) -> float:
  """A number in [0, 1) by a hash of the text: the same for ever."""
  digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
  return (int.from_bytes(digest, "big") >> 11) / 2**53


@dataclasses.dataclass(frozen=True)
class Shares:
  """How documents are parted."""

  by: Literal["hash", "position"]
  validation: float
  test: float

  def of(self, text: str) -> str:
    """The split of a document, by its text: it is never in two."""
    return self.at(place(text))

  def at(self, at: float) -> str:
    """The split of a place in [0, 1)."""
    if at < self.test:
      return "test"
    return "validation" if at < self.test + self.validation else "train"

  def part(self, texts: Iterable[str], total: int) -> Iterator[tuple[str, str]]:
    """Yields (split, text).

    By position, the first characters of all `total` train, the next validate
    and the last test; a document across a border is cut there.
    """
    if self.by == "hash":
      yield from ((self.of(text), text) for text in texts)
      return
    borders = [
      round(total * (1 - self.validation - self.test)),
      round(total * (1 - self.test)),
      total,
    ]
    seen = 0
    for text in texts:
      start = seen
      for split, border in zip(SPLITS, borders, strict=True):
        end = min(start + len(text), border)
        if end > seen:
          yield split, text[seen - start : end - start]
          seen = end
