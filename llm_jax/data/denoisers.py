"""What is taken away of a text, as settings."""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar, Literal

import numpy as np

from llm_jax.config import field
from llm_jax.data import corruption
from llm_jax.data.corruption import Pair
from llm_jax.data.words import Vocabulary


@dataclasses.dataclass(frozen=True)
class Plain:
  """Nothing: each token is predicted from those before it."""

  measure: ClassVar[str] = "bits_per_byte"


@dataclasses.dataclass(frozen=True)
class Masked:
  """Tokens hidden where they stand (BERT, arXiv:1810.04805, section 3.1).

  Others at each epoch (RoBERTa, arXiv:1907.11692, section 4.1).
  """

  measure: ClassVar[str] = "bits_per_masked_byte"

  rate: float = field(0.15, "share of tokens to be told", low=0.001, high=1)
  masked: float = field(
    0.8, "share of these in whose place the mask stands", low=0, high=1
  )
  random: float = field(
    0.1,
    "share of these in whose place a random token stands; the rest stay",
    low=0,
    high=1,
  )
  whole_words: bool = field(False, "hide words, not pieces of them")

  def __post_init__(self) -> None:
    if self.masked + self.random > 1 + 1e-9:
      raise ValueError(
        f"--data.corruption.masked={self.masked} and"
        f" --data.corruption.random={self.random}: together more than 1"
      )


@dataclasses.dataclass(frozen=True)
class Spans:
  """Spans taken out, to be written (T5, arXiv:1910.10683, section 3.3.4)."""

  measure: ClassVar[str] = "bits_per_target_byte"

  density: float = field(0.15, "share of tokens taken out", low=0, high=1)
  mean_span: float = field(
    3.0, "tokens of a span; 0 = one span, at the end", low=0
  )
  ending: Literal["eos", "sentinel"] = field(
    "eos",
    "what follows a target's last span: eos (T5's released models), or one more"
    " sentinel and eos (its paper's figure 2)",
  )

  def num_sentinels(self, size: int) -> int:
    """How many a text of `size` ids needs."""
    spans = corruption.counts(size, self.density, self.mean_span)[1]
    return spans + (self.ending == "sentinel")

  def sizes(self, size: int) -> tuple[int, int]:
    """Ids of source and target, of a text of `size` ids."""
    num, spans = corruption.counts(size, self.density, self.mean_span)
    final = self.ending == "sentinel"
    return size - num + spans + 1, num + spans + final + 1

  def total(self, size: int) -> int:
    """Ids of both."""
    return sum(self.sizes(size))

  def pair(
    self, ids: np.ndarray, vocabulary: Vocabulary, r: np.random.Generator
  ) -> Pair:
    """Source and target; `restore` is the inverse."""
    size = len(ids)
    num, spans = corruption.counts(size, self.density, self.mean_span)
    taken_T = np.arange(size) >= size - num
    if self.mean_span:
      taken_T = corruption.noise(size, num, spans, r)
    return corruption.take_out(
      ids,
      taken_T,
      vocabulary.marks.sentinels,
      vocabulary.tokenizer.eos_id,
      self.ending == "sentinel",
    )

  def restore(self, pair: Pair, sentinels: Sequence[int]) -> np.ndarray:
    """The ids that `pair` took apart."""
    return corruption.put_back(pair, sentinels)


@dataclasses.dataclass(frozen=True)
class PrefixLM:
  """A beginning that is read, and the rest (prefix language modelling).

  T5, arXiv:1910.10683, section 3.3.1.
  """

  measure: ClassVar[str] = "bits_per_target_byte"

  shortest: float = field(
    0.0, "share of tokens in the beginning, at least", low=0, high=1
  )
  longest: float = field(
    1.0, "share of tokens in the beginning, at most", low=0, high=1
  )

  def __post_init__(self) -> None:
    if self.shortest > self.longest:
      raise ValueError(
        f"--data.corruption.shortest={self.shortest}: more than"
        f" --data.corruption.longest={self.longest}"
      )

  def num_sentinels(self, size: int) -> int:
    """None."""
    del size
    return 0

  def sizes(self, size: int) -> tuple[int, int]:
    """Ids of source and target, at most, of a text of `size` ids."""
    low, high = corruption.split_bounds(size, (self.shortest, self.longest))
    return high, size - low

  def total(self, size: int) -> int:
    """Ids of both."""
    return size

  def pair(
    self, ids: np.ndarray, vocabulary: Vocabulary, r: np.random.Generator
  ) -> Pair:
    """Source and target; `restore` is the inverse."""
    del vocabulary
    return corruption.split(ids, (self.shortest, self.longest), r)

  def restore(self, pair: Pair, sentinels: Sequence[int]) -> np.ndarray:
    """The ids that `pair` took apart."""
    del sentinels
    return corruption.join(pair)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Several ways, each in its share of rows (UL2, arXiv:2205.05131, table 1).

  By default those of the table, alike: R takes short spans, S the last quarter,
  X much or long spans. A source begins with its way's mode.
  """

  measure: ClassVar[str] = "bits_per_target_byte"

  parts: tuple[Spans | PrefixLM, ...] = (
    Spans(0.15, 3.0),
    Spans(0.15, 8.0),
    Spans(0.25, 0.0),
    Spans(0.5, 3.0),
    Spans(0.5, 8.0),
    Spans(0.15, 64.0),
    Spans(0.5, 64.0),
  )
  weights: tuple[float, ...] = field(
    (), "share of rows of each part; none = alike"
  )
  modes: tuple[str, ...] = field(
    ("R", "R", "S", "X", "X", "X", "X"),
    "mode that a source of each part begins with: R, S or X; none = no modes",
  )

  def __post_init__(self) -> None:
    count = len(self.parts)
    for name, given in (("weights", self.weights), ("modes", self.modes)):
      if given and len(given) != count:
        raise ValueError(
          f"--data.corruption.{name}={','.join(map(str, given))}: one for each"
          f" of {count} parts"
        )
    for mode in self.modes:
      if mode not in ("R", "S", "X"):
        raise ValueError(f"--data.corruption.modes={mode}: one of R, S, X")
    if any(w <= 0 for w in self.weights):
      raise ValueError("--data.corruption.weights: must be positive")
