"""The shape of a transformer, as data."""

import dataclasses
from typing import ClassVar, Literal

from llm_jax.config import field
from llm_jax.models import unread
from llm_jax.models.shape import Shape


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary wavelengths are stretched; factor 1 turns it off."""

  kind: Literal["llama3", "linear", "yarn", "longrope"] = field(
    "llama3",
    "which wavelengths: the long ones (Llama 3.1), all alike, the long ones"
    " with sharper attention (YaRN), or each by a factor of its own (Phi-3)",
  )
  factor: float = field(1.0, "how much longer than trained; 1 = off", low=1)
  low_factor: float = field(
    1.0, "stretch wavelengths above original/this; YaRN's beta slow"
  )
  high_factor: float = field(
    4.0, "keep wavelengths below original/this; YaRN's beta fast"
  )
  original_length: int = field(8192, "context before stretching, tokens", low=1)
  short_factors: tuple[float, ...] = field(
    (), "longrope: of each wavelength where --model.max_length is no longer"
  )
  long_factors: tuple[float, ...] = field(
    (), "longrope: of each wavelength where --model.max_length is longer"
  )
  sharpness: float | None = field(
    None, "longrope: rotated queries and keys are times it; none = by factor"
  )

  def __post_init__(self) -> None:
    if self.kind == "longrope" and self.original_length < 2:
      raise ValueError(
        f"--model.rope_scaling.original_length={self.original_length}: longrope"
        " needs 2 or more"
      )
    long = self.kind == "longrope"
    told = {
      "short_factors": self.short_factors,
      "long_factors": self.long_factors,
    }
    for name, factors in told.items():
      if bool(factors) != long or any(f <= 0 for f in factors):
        raise ValueError(
          f"--model.rope_scaling.{name}={','.join(map(str, factors))}: of"
          " longrope alone, which needs them, all above 0"
        )
    if self.sharpness is not None and (not long or self.sharpness <= 0):
      raise ValueError(
        f"--model.rope_scaling.sharpness={self.sharpness}: of longrope alone,"
        " above 0"
      )
    if long:
      return
    if self.factor != 1 and not 0 < self.low_factor < self.high_factor:
      raise ValueError(
        f"--model.rope_scaling.low_factor={self.low_factor}: must be more than"
        f" 0, less than --model.rope_scaling.high_factor={self.high_factor}"
      )


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
  """One stack of blocks: a decoder such as Llama 3, or an encoder such as BERT.

  Families are values of these settings; `interop` has a table of each.
  """

  kind = "transformer"
  cut_by: ClassVar[tuple[str, ...]] = (
    "stage",
    "data",
    "fsdp",
    "expert",
    "context",
    "tensor",
  )
  meaning = (
    *("norm", "norm_at", "norm_from_one", "first_norm", "embed_scale"),
    "head_scale",
    *("positions", "position_offset", "relative_distance"),
    *("activation", "qk_norm_over", "attention_scale", "attention_softcap"),
    *("experts.per_token", "experts.normalise"),
  )

  mlp_dim: int = field(512, "F, feed-forward width", low=1)
  num_heads: int = field(4, "N, query heads", low=1)
  num_kv_heads: int = field(
    0, "K, key/value heads; 0 = as many as query heads", low=0
  )
  head_dim: int = field(0, "H, width of a head; 0 = D / N", low=0)
  experts: Experts = Experts()
  sees: Literal["before", "prefix", "all"] = field(
    "before",
    "what a position sees of its document: what came before, also the whole of"
    " a prompt that it is part of, or everything (an encoder)",
  )
  norm: Literal["rms", "layer"] = field("rms", "kind of normalisation")
  norm_eps: float = field(1e-5, "added to the variance", low=0)
  norm_bias: bool = field(False, "a bias in each LayerNorm")
  norm_from_one: bool = field(
    False, "what is kept of a norm's scale is its difference from 1 (Gemma)"
  )
  norm_at: Literal["input", "output", "both", "sum"] = field(
    "input",
    "what a block normalises: what its halves read, what they say (OLMo 2),"
    " both (Gemma 2), or their sum with the residual (BERT)",
  )
  first_norm: bool = field(
    True, "the first attention's input is normalised; not so in ModernBERT"
  )
  embed_norm: bool = field(False, "a norm after the embedding")
  embed_scale: bool = field(False, "the embedding times sqrt(D)")
  token_types: int = field(
    0,
    "rows of a table of kinds of token, as question and text; 0 = none",
    low=0,
  )
  positions: Literal["rope", "learned", "relative", "none"] = field(
    "rope", "how places are told"
  )
  position_offset: int = field(
    0, "learned positions that come before the first (RoBERTa, BART: 2)", low=0
  )
  relative_buckets: int = field(
    32, "distances told apart by relative positions (T5)", low=4
  )
  relative_distance: int = field(
    128, "distances from here on are one bucket", low=1
  )
  rope_theta: float = field(10_000.0, "base of rotary wavelengths", low=1)
  rope_dim: int = field(
    0, "first dims of a head that are rotated, an even number; 0 = all", low=0
  )
  rope_scaling: RopeScaling = RopeScaling()
  window_theta: float | None = field(
    None,
    "base of rotary wavelengths in layers with a window, which are not"
    " stretched then; none = as in the others",
    low=1,
  )
  activation: Literal[
    "swiglu", "geglu", "geglu_exact", "gelu", "gelu_exact", "relu", "relu2"
  ] = field(
    "swiglu",
    "feed-forward non-linearity; GELU is the tanh form where not exact",
  )
  qkv_bias: bool = field(False, "a bias on queries, keys and values")
  out_bias: bool = field(False, "a bias on the attention's output")
  mlp_bias: bool = field(False, "biases in the feed-forward")
  qk_norm: bool = field(False, "RMSNorm on queries and keys")
  qk_norm_over: Literal["head", "all"] = field(
    "head", "each head by itself, or all together (OLMo 2)"
  )
  attention_scale: float | None = field(
    None, "what products of queries and keys are times; none = 1/sqrt(H)"
  )
  attention_softcap: float | None = field(
    None, "attention's logits are cap * tanh(logits / cap)", low=0
  )
  window: int | None = field(
    None,
    "sliding window, tokens, itself included; where a position sees all, half"
    " of it on either side",
    low=1,
  )
  full_layers: tuple[int, ...] = field(
    (), "layers, from 0, that see everything whatever the window"
  )
  head_scale: bool = field(
    False, "what the head reads is divided by sqrt(D) (T5 v1.0)"
  )
  head_dense: bool = field(
    False, "a dense map, GELU and a norm before the head (BERT)"
  )
  head_dense_bias: bool = field(True, "a bias in that map")
  output_dense: Literal["none", "tanh", "head"] = field(
    "none",
    "what the numbers of --model.outputs are said of: the last activations,"
    " tanh of a dense map of them (BERT, RoBERTa), or what the head reads"
    " (ModernBERT)",
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
    super().__post_init__()
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
    if self.positions == "rope":
      self._rotates()
    if 0 < self.experts.num < self.experts.per_token:
      raise ValueError(
        f"--model.experts.per_token={self.experts.per_token}: there are"
        f" --model.experts.num={self.experts.num}"
      )
    if self.experts.num and self.mlp_bias:
      raise ValueError("--model.mlp_bias=True: experts have no biases")
    unread.check(self)
    listed = ",".join(map(str, self.full_layers))
    if any(not 0 <= i < self.num_layers for i in self.full_layers):
      raise ValueError(
        f"--model.full_layers={listed}: there are layers 0 to"
        f" {self.num_layers - 1}"
      )
    if len(set(self.full_layers)) < len(self.full_layers):
      raise ValueError(f"--model.full_layers={listed}: names a layer twice")
    if self.attention_scale is not None and not self.attention_scale > 0:
      raise ValueError(
        f"--model.attention_scale={self.attention_scale}: must be more than 0"
      )
    if self.output_dense == "head" and not self.head_dense:
      raise ValueError(
        "--model.output_dense=head: the head reads the last activations"
        " themselves without --model.head_dense; none is the same"
      )
    if self.relative_buckets % 4:
      raise ValueError(
        f"--model.relative_buckets={self.relative_buckets}: must be a multiple"
        " of 4"
      )
    near = self.relative_buckets // (4 if self.sees == "all" else 2)
    if self.positions == "relative" and self.relative_distance <= near:
      raise ValueError(
        f"--model.relative_distance={self.relative_distance}: must be more than"
        f" {near}, up to which each of --model.relative_buckets="
        f"{self.relative_buckets} is one distance"
      )

  def _rotates(self) -> None:
    """ValueError where what is rotated is no number of pairs."""
    if self.H % 2:
      raise ValueError(f"--model.head_dim={self.H}: rope needs an even width")
    if self.rope_dim % 2 or self.rope_dim > self.H:
      raise ValueError(
        f"--model.rope_dim={self.rope_dim}: must be an even number up to"
        f" --model.head_dim={self.H}"
      )
    scaling, pairs = self.rope_scaling, self.rotated // 2
    for name in ("short_factors", "long_factors"):
      count = len(getattr(scaling, name))
      if scaling.kind == "longrope" and count != pairs:
        raise ValueError(
          f"--model.rope_scaling.{name}: there are {count}, and {pairs}"
          " wavelengths"
        )

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
  def seen_width(self) -> int:
    """Of keys and values."""
    return 2 * self.K * self.H

  @property
  def tensor_dims(self) -> tuple[int, ...]:
    return self.K, self.mlp_dim

  @property
  def rotated(self) -> int:
    """Dims of a head that rotary positions turn."""
    return self.rope_dim or self.H

  @property
  def gated(self) -> bool:
    """Whether the feed-forward has a gate."""
    return self.activation in ("swiglu", "geglu", "geglu_exact")

  @property
  def K(self) -> int:
    """Key/value heads."""
    return self.num_kv_heads or self.num_heads

  @property
  def H(self) -> int:
    """Width of a head."""
    return self.head_dim or self.embed_dim // self.num_heads
