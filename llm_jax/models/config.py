"""The shape of a decoder, as data."""

import dataclasses
from typing import Literal

from llm_jax.config import field
from llm_jax.models.shape import Shape


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """Llama 3.1's stretching of rotary wavelengths; factor 1 turns it off."""

  factor: float = field(1.0, "how much longer than trained; 1 = off", low=1)
  low_factor: float = field(1.0, "stretch wavelengths above original/this")
  high_factor: float = field(4.0, "keep wavelengths below original/this")
  original_length: int = field(8192, "context before stretching, tokens")


@dataclasses.dataclass(frozen=True)
class Experts:
  """A mixture of experts in place of each block's feed-forward."""

  num: int = field(
    0, "M, experts, each --model.mlp_dim wide; 0 = one feed-forward", low=0
  )
  per_token: int = field(2, "experts that a token goes to", low=1)
  normalise: bool = field(True, "the weights of a token's experts sum to 1")
  balance: float = field(
    0.01, "weight of the loss of uneven use, added in each layer", low=0
  )
  z_loss: float = field(
    0.0,
    "weight of log(sum exp)^2 of the router's logits (ST-MoE: 1e-3)",
    low=0,
  )


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Shape):
  """A decoder-only transformer: GPT-2, Llama 3, Qwen 3, Mixtral and between."""

  kind = "transformer"
  cut_by = ("stage", "data", "fsdp", "expert", "context", "tensor")
  meaning = (
    *("norm", "positions", "activation"),
    *("experts.per_token", "experts.normalise"),
  )

  mlp_dim: int = field(512, "F, feed-forward width", low=1)
  num_heads: int = field(4, "N, query heads", low=1)
  num_kv_heads: int = field(
    0, "K, key/value heads; 0 = as many as query heads", low=0
  )
  head_dim: int = field(0, "H, width of a head; 0 = D / N", low=0)
  experts: Experts = Experts()
  norm: Literal["rms", "layer"] = field("rms", "kind of normalisation")
  norm_eps: float = field(1e-5, "added to the variance", low=0)
  norm_bias: bool = field(False, "a bias in each LayerNorm")
  positions: Literal["rope", "learned", "none"] = field(
    "rope", "how places are told"
  )
  rope_theta: float = field(10_000.0, "base of rotary wavelengths", low=1)
  rope_scaling: RopeScaling = RopeScaling()
  activation: Literal["swiglu", "geglu", "gelu", "relu2"] = field(
    "swiglu", "feed-forward non-linearity; GELU is the tanh form"
  )
  qkv_bias: bool = field(False, "a bias on queries, keys and values")
  out_bias: bool = field(False, "a bias on the attention's output")
  mlp_bias: bool = field(False, "biases in the feed-forward")
  qk_norm: bool = field(False, "RMSNorm on each query and key head")
  window: int | None = field(
    None, "sliding window, tokens, itself included", low=1
  )
  dropout: float = field(
    0.0, "on the embedding and on each block's two outputs", low=0, high=0.99
  )
  init_std: float = field(
    0.02, "of normal initial weights; outputs of a block / sqrt(2 L)", low=0
  )
  attention: Literal["auto", "xla", "cudnn", "splash"] = field(
    "auto",
    "attention kernel; auto takes cuDNN on a GPU and splash on a TPU where they"
    " can",
  )
  context_attention: Literal["gather", "ring"] = field(
    "gather",
    "where positions are cut over devices (--mesh.context), how keys come: all"
    " at once, or in turns, so that none holds all of them",
  )
  stage_microbatches: int = field(
    0,
    "with --mesh.stage: parts in which rows pass through the stages; 0 = as"
    " many as stages; changes memory, waiting and the draws of dropout, nothing"
    " else",
    low=0,
  )
  stage_remat: bool = field(
    False,
    "with --mesh.stage: keep only what a stage is handed, and compute the rest"
    " of its turn again",
  )

  def __post_init__(self) -> None:
    if self.num_heads % self.K:
      raise ValueError(
        f"--model.num_kv_heads={self.num_kv_heads}: must divide"
        f" --model.num_heads={self.num_heads}"
      )
    if not self.head_dim and self.embed_dim % self.num_heads:
      raise ValueError(
        f"--model.num_heads={self.num_heads}: must divide"
        f" --model.embed_dim={self.embed_dim}, or give --model.head_dim"
      )
    if self.positions == "rope" and self.H % 2:
      raise ValueError(f"--model.head_dim={self.H}: rope needs an even width")
    if 0 < self.experts.num < self.experts.per_token:
      raise ValueError(
        f"--model.experts.per_token={self.experts.per_token}: there are"
        f" --model.experts.num={self.experts.num}"
      )
    if self.experts.num and self.mlp_bias:
      raise ValueError("--model.mlp_bias=True: experts have no biases")

  def parts(self, stages: int) -> int:
    """Parts in which rows pass through so many stages."""
    return self.stage_microbatches or stages

  @property
  def num_experts(self) -> int:
    return self.experts.num

  @property
  def router_losses(self) -> tuple[float, float] | None:
    its = self.experts
    return (its.balance, its.z_loss) if its.num else None

  @property
  def attends(self) -> bool:
    return True

  @property
  def tensor_dims(self) -> tuple[int, ...]:
    return self.K, self.mlp_dim

  @property
  def K(self) -> int:
    """Key/value heads."""
    return self.num_kv_heads or self.num_heads

  @property
  def H(self) -> int:
    """Width of a head."""
    return self.head_dim or self.embed_dim // self.num_heads
