"""What all models have in common, as data."""

import dataclasses
from typing import ClassVar, Literal

from llm_jax.config import field


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is read of any model, whatever stands between table and head.

  Attributes:
    kind: how errors call it.
    cut_by: mesh axes that may have several devices.
    meaning: settings that say what weights mean, and that no shape of a weight
      tells apart.
  """

  kind: ClassVar[str]
  cut_by: ClassVar[tuple[str, ...]]
  meaning: ClassVar[tuple[str, ...]]

  num_layers: int = field(4, "L, layers", low=1, high=10_000)
  embed_dim: int = field(128, "D, width of what layers hand on", low=1)
  vocab_size: int = field(
    0, "V, rows of the embedding; 0 = the tokenizer's", low=0
  )
  max_length: int = field(1024, "longest sequence, tokens", low=1)
  tied: bool = field(True, "the head is the embedding, transposed")
  logit_softcap: float | None = field(
    None, "logits are cap * tanh(logits / cap)", low=0
  )
  head_bias: bool = field(False, "a bias on the logits")
  outputs: int = field(
    0,
    "O, numbers said of each position beside the next token: 1 = a reward or a"
    " value, more = classes, 0 = none",
    low=0,
  )
  output_bias: bool = field(False, "a bias on those numbers")
  dtype: Literal["float32", "bfloat16", "float64"] = field(
    "float32", "of activations; parameters stay float32"
  )
  unroll: int = field(
    1, "layers per turn of the layer loop; 0 = no loop at all", low=0
  )
  remat: Literal["none", "dots", "full"] = field(
    "none", "kept for the backward pass: all, matrix products, or nothing"
  )
  head_chunk: int = field(
    0,
    "positions whose logits exist at once; 0 = as many as fit 128 MiB",
    low=0,
  )

  def __post_init__(self) -> None:
    if self.output_bias and not self.outputs:
      raise ValueError(
        "--model.output_bias=True: nothing reads it without --model.outputs"
      )

  @property
  def num_experts(self) -> int:
    """M, experts of each layer; 0 = it is no mixture."""
    return 0

  @property
  def router_losses(self) -> tuple[float, float] | None:
    """Weights of the losses of uneven use and of large logits."""
    return None

  @property
  def attends(self) -> bool:
    """Whether positions read each other by an attention kernel."""
    return False

  @property
  def seen_width(self) -> int:
    """Numbers of a position that others read in a layer: keys and values."""
    return 0

  @property
  def tensor_dims(self) -> tuple[int, ...]:
    """Sizes that `--mesh.tensor` cuts, the widest last."""
    return (self.embed_dim,)

  @property
  def reads_sources(self) -> bool:
    """Whether an encoder reads what a decoder writes of."""
    return False

  def parts(self, stages: int) -> int:
    """Parts in which rows pass through so many stages."""
    return stages
