"""Questions answered by a span of a text, as training data.

Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822.
"""

import dataclasses
from typing import ClassVar, Literal

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import mixture, sides, windowed
from llm_jax.data.passage_sources import (
  PassageFiles,
  TFDSPassages,
  Told,
)
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_passages import StdlibPassages


@dataclasses.dataclass(frozen=True)
class Passages(mixture.Mixture):
  """Weighted sources of questions, each with a text that may answer it.

  A row is a question with a window of its text, see `framing`; a text that is
  longer has several windows, which overlap. A window without all of the answer
  has no answer, as Devlin et al. 2018, arXiv:1810.04805, have it.
  """

  rows: ClassVar[str] = "spans"

  sources: tuple[StdlibPassages | PassageFiles | TFDSPassages, ...] = (
    StdlibPassages(),
  )
  length: int = field(384, "T, tokens in a row, special ones included", low=1)
  overlap: int = field(
    128, "tokens that a window of a text shares with the one before it", low=0
  )
  question: int = field(
    64, "tokens of a question that are read, at most", low=1
  )
  widths: int = field(
    8,
    "rows are cut to the longest of their batch, at one of this many widths,"
    " each compiled once; 1 = always all of --data.length",
    low=1,
  )
  between: int = field(
    1,
    "end tokens between question and text: 1 as BERT, 2 as RoBERTa",
    low=0,
    high=2,
  )
  none_at: Literal["first", "last"] = field(
    "last",
    "the token that stands for no answer: the last one, or the first, as only"
    " an encoder can",
  )
  source: SourceSide = SourceSide()

  def __post_init__(self) -> None:
    super().__post_init__()
    sides.check_twice(self.source, self.length)

  def prepare(self, progress: Progress) -> windowed.Corpus:
    """Reads every source once, or finds it in the cache."""
    found = [Told(source) for source in self.sources]
    return windowed.Corpus(self, *self.documents(found, progress))
