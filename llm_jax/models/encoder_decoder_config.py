"""The shape of an encoder-decoder, as data."""

import dataclasses
from typing import Any

from llm_jax.config import field
from llm_jax.models.config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Encoder:
  """The stack that reads the source; what is not named is the decoder's."""

  num_layers: int = field(0, "its layers; 0 = as many as the decoder", low=0)
  num_heads: int = field(
    0, "its query heads; 0 = as many as the decoder", low=0
  )
  mlp_dim: int = field(
    0, "its feed-forward width; 0 = as wide as the decoder's", low=0
  )


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(TransformerConfig):
  """A decoder whose blocks also read what an encoder makes of a source.

  Both are stacks of the same blocks and share the table of embeddings (T5,
  arXiv:1910.10683, section 2.1; BART, arXiv:1910.13461).
  """

  kind = "encoder-decoder"
  cut_by = ("data", "fsdp", "tensor")

  encoder: Encoder = Encoder()
  start_id: int = field(
    -1,
    "the id that a target begins with; -1 = that of --data.source.start",
    low=-1,
  )
  first_id: int = field(
    -1,
    "the id that what it writes always begins with (some of BART's, which were"
    " trained so); -1 = any",
    low=-1,
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.sees != "before":
      raise ValueError(
        f"--model.sees={self.sees}: the decoder of an encoder-decoder sees what"
        " came before; its encoder sees all"
      )
    if self.window is not None:
      raise ValueError(
        f"--model.window={self.window}: not in an encoder-decoder; none"
      )
    if self.experts.num:
      raise ValueError(
        f"--model.experts.num={self.experts.num}: not in an encoder-decoder; 0"
      )
    if self.token_types:
      raise ValueError(
        f"--model.token_types={self.token_types}: not in an encoder-decoder; 0"
      )
    if self.num_kv_heads and self.encoder.num_heads % self.num_kv_heads:
      raise ValueError(
        f"--model.num_kv_heads={self.K}: must divide"
        f" --model.encoder.num_heads={self.encoder.num_heads}"
      )
    heads = self.encoder.num_heads
    if heads and not self.head_dim and self.embed_dim % heads:
      raise ValueError(
        f"--model.encoder.num_heads={heads}: must divide"
        f" --model.embed_dim={self.embed_dim}, or give --model.head_dim"
      )
    for name in ("start_id", "first_id"):
      if 0 < self.vocab_size <= getattr(self, name):
        raise ValueError(
          f"--model.{name}={getattr(self, name)}: no id of"
          f" --model.vocab_size={self.vocab_size}"
        )

  @property
  def reads_sources(self) -> bool:
    return True

  @property
  def reader(self) -> TransformerConfig:
    """The encoder as a stack of its own."""
    own, fields = self.encoder, dataclasses.fields(TransformerConfig)
    shared: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields}
    its = {
      "sees": "all",
      "num_layers": own.num_layers or self.num_layers,
      "num_heads": own.num_heads or self.num_heads,
      "mlp_dim": own.mlp_dim or self.mlp_dim,
      "outputs": 0,
      "output_bias": False,
      "output_dense": "none",
      "head_dense": False,
      "head_dense_bias": True,
    }
    return TransformerConfig(**shared | its)
