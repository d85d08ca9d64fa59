"""The shape of a recurrent language model, as data."""

import dataclasses
from typing import Literal

from llm_jax.config import field
from llm_jax.models.shape import Shape


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(Shape):
  """LSTM and GRU language models (arXiv:1409.2329)."""

  kind = "recurrent"
  cut_by = ("data", "fsdp", "tensor")
  meaning = ("cell", "norm", "residual")

  num_layers: int = field(2, "L, layers", low=1, high=10_000)
  embed_dim: int = field(
    256, "D, width of the embedding and of each layer's state", low=1
  )
  cell: Literal["lstm", "gru"] = field("lstm", "what a layer does at a token")
  forget_bias: float = field(
    1.0, "what an LSTM's forget gate adds at first (Jozefowicz et al. 2015)"
  )
  norm: Literal["none", "rms", "layer"] = field(
    "none", "normalisation of what each layer reads, and the head"
  )
  norm_eps: float = field(1e-5, "added to the variance", low=0)
  residual: bool = field(
    False, "what a layer reads is added to what it says (arXiv:1609.08144)"
  )
  dropout: float = field(
    0.0, "on what each layer reads, and the head", low=0, high=0.99
  )
  init_std: float = field(0.05, "of normal initial weights", low=0)

  @property
  def gates(self) -> int:
    """J, affine maps of a cell."""
    return {"lstm": 4, "gru": 3}[self.cell]
