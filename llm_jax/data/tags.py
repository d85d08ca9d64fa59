"""Words with tags as training data: sources, tags, rows.

Tjong Kim Sang and De Meulder 2003, arXiv:cs/0306050, and the like.
"""

import dataclasses
from typing import ClassVar

from llm_jax.config import field
from llm_jax.contracts import Progress
from llm_jax.data import mixture, sides, tagged
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_tags import StdlibTags
from llm_jax.data.tag_sources import ColumnFiles, Sentences, TagFiles, TFDSTags

Sources = StdlibTags | ColumnFiles | TagFiles | TFDSTags


@dataclasses.dataclass(frozen=True)
class Tags(mixture.Mixture):
  """Weighted sources of sentences, each word of which has a tag.

  A row is a sentence, its words joined by spaces; one that is longer is cut
  between words into several rows, so that each word is told once.
  """

  rows: ClassVar[str] = "tags"

  sources: tuple[Sources, ...] = (StdlibTags(),)
  classes: tuple[str, ...] = field(
    (),
    "names of tags, by number from 0; none = those of the training split, in"
    " order",
  )
  length: int = field(128, "T, tokens in a row, special ones included", low=3)
  widths: int = field(
    8,
    "rows are cut to the longest of their batch, at one of this many widths,"
    " each compiled once; 1 = always all of --data.length",
    low=1,
  )
  source: SourceSide = SourceSide()

  def __post_init__(self) -> None:
    super().__post_init__()
    sides.check_twice(self.source, self.length)
    if len(set(self.classes)) < len(self.classes):
      raise ValueError(f"--data.classes={','.join(self.classes)}: each once")

  def prepare(self, progress: Progress) -> tagged.Corpus:
    """Reads every source once, or finds it in the cache."""
    found = [Sentences(source) for source in self.sources]
    return tagged.Corpus(self, *self.documents(found, progress))
