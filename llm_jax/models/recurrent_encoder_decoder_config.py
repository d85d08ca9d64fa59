"""The shape of a recurrent encoder-decoder, as data."""

import dataclasses
from typing import Literal

from llm_jax.config import field
from llm_jax.models.recurrent_config import RecurrentConfig


@dataclasses.dataclass(frozen=True)
class RecurrentEncoderDecoderConfig(RecurrentConfig):
  """A recurrent decoder that attends to what a recurrent encoder read.

  Both have as many layers, of one kind of cell, and share the table of
  embeddings (arXiv:1409.3215, with the attention of arXiv:1508.04025).
  """

  kind = "recurrent encoder-decoder"

  norm: Literal["none", "rms", "layer"] = field(
    "rms",
    "normalisation of what each layer reads, and the head; with none it learns"
    " from --model.init_std of about 1 / sqrt(D) only",
  )
  directions: Literal["both", "forward"] = field(
    "both",
    "in which the encoder reads; both = each layer half of its width forward,"
    " half backward (arXiv:1409.0473)",
  )
  score: Literal["general", "dot"] = field(
    "general",
    "how a position of the target is compared with one of the source: h W s,"
    " or h s (arXiv:1508.04025, section 3.1)",
  )
  start_id: int = field(
    -1,
    "the id that a target begins with; -1 = that of --data.source.start",
    low=-1,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.directions == "both" and self.embed_dim % 2:
      raise ValueError(
        f"--model.embed_dim={self.embed_dim}: odd, and each of"
        " --model.directions=both has half of it; an even number, or forward"
      )

  @property
  def reads_sources(self) -> bool:
    return True

  @property
  def tensor_dims(self) -> tuple[int, ...]:
    return (self.widths[0], self.embed_dim)

  @property
  def widths(self) -> tuple[int, ...]:
    """Of the states of an encoder's layer, one for each direction."""
    if self.directions == "both":
      return (self.embed_dim // 2, self.embed_dim // 2)
    return (self.embed_dim,)
