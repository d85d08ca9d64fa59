"""Known shapes, as data. Parameter counts are those `sizing` gives.

Sources: nanoGPT's README (nano_shakespeare), GPT-2's released configuration
(124M), the released configurations of Llama 3 (arXiv:2407.21783, table 3) and
3.2, of Mixtral (arXiv:2401.04088, table 1), of Qwen 3 (arXiv:2505.09388, tables
1 and 2) and of BERT (arXiv:1810.04805, section 3).
"""

import dataclasses
from typing import Literal

from llm_jax.models.config import Experts, RopeScaling, TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig

_GPT2 = TransformerConfig(
  norm="layer",
  norm_bias=True,
  positions="learned",
  activation="gelu",
  qkv_bias=True,
  out_bias=True,
  mlp_bias=True,
)

_LLAMA3 = TransformerConfig(
  vocab_size=128_256,
  num_heads=32,
  num_kv_heads=8,
  head_dim=128,
  rope_theta=500_000.0,
  tied=False,
  dtype="bfloat16",
)


def tiny() -> TransformerConfig:
  """The demo's decoder: minutes on a laptop."""
  return TransformerConfig(
    num_layers=4,
    embed_dim=192,
    mlp_dim=512,
    num_heads=6,
    max_length=512,
    unroll=0,
  )


def tiny_t5() -> EncoderDecoderConfig:
  """T5 v1.1's settings (arXiv:2002.05202), as small as `tiny`.

  Differs from it: scores of attention are divided by sqrt(H), and the head is
  the embedding. `export` writes it in T5's words all the same.
  """
  return EncoderDecoderConfig(
    num_layers=3,
    embed_dim=192,
    mlp_dim=512,
    num_heads=6,
    max_length=512,
    positions="relative",
    activation="geglu",
    norm_eps=1e-6,
    unroll=0,
  )


def bert_base() -> TransformerConfig:
  """109,514,298 parameters, with the head for masked words."""
  return TransformerConfig(
    num_layers=12,
    embed_dim=768,
    mlp_dim=3072,
    num_heads=12,
    vocab_size=30_522,
    max_length=512,
    sees="all",
    norm="layer",
    norm_eps=1e-12,
    norm_bias=True,
    norm_at="sum",
    embed_norm=True,
    token_types=2,
    positions="learned",
    activation="gelu_exact",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    head_dense=True,
    head_bias=True,
  )


def nano_shakespeare(size: Literal["cpu", "gpu"] = "cpu") -> TransformerConfig:
  """NanoGPT's character models: 4 layers of 128, or 6 of 384."""
  shape = dataclasses.replace(
    _GPT2,
    norm_bias=False,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    unroll=0,
  )
  if size == "cpu":
    return dataclasses.replace(
      shape,
      num_layers=4,
      num_heads=4,
      embed_dim=128,
      mlp_dim=512,
      max_length=64,
    )
  return dataclasses.replace(
    shape,
    num_layers=6,
    num_heads=6,
    embed_dim=384,
    mlp_dim=1536,
    max_length=256,
    dropout=0.2,
  )


def gpt2_124m() -> TransformerConfig:
  """124,439,808 parameters with GPT-2's own vocabulary of 50,257."""
  return dataclasses.replace(
    _GPT2,
    num_layers=12,
    num_heads=12,
    embed_dim=768,
    mlp_dim=3072,
    vocab_size=50_257,
    max_length=1024,
    dtype="bfloat16",
  )


def llama3_1b() -> TransformerConfig:
  """Llama 3.2 1B: 1,235,814,400 parameters, tied."""
  return dataclasses.replace(
    _LLAMA3,
    num_layers=16,
    embed_dim=2048,
    mlp_dim=8192,
    num_heads=32,
    head_dim=64,
    max_length=131_072,
    tied=True,
    rope_scaling=RopeScaling(factor=32.0),
  )


def llama3_8b() -> TransformerConfig:
  """Llama 3.1 8B: 8,030,261,248 parameters."""
  return dataclasses.replace(
    _LLAMA3,
    num_layers=32,
    embed_dim=4096,
    mlp_dim=14_336,
    num_heads=32,
    max_length=131_072,
    rope_scaling=RopeScaling(factor=8.0),
  )


def llama3_70b() -> TransformerConfig:
  """Llama 3.1 70B: 70,553,706,496 parameters."""
  return dataclasses.replace(
    _LLAMA3,
    num_layers=80,
    embed_dim=8192,
    mlp_dim=28_672,
    num_heads=64,
    max_length=131_072,
    rope_scaling=RopeScaling(factor=8.0),
  )


def qwen3_0_6b() -> TransformerConfig:
  """Qwen 3 0.6B: 596,049,920 parameters, tied, query/key norm."""
  return TransformerConfig(
    num_layers=28,
    embed_dim=1024,
    mlp_dim=3072,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=151_936,
    max_length=40_960,
    norm_eps=1e-6,
    rope_theta=1_000_000.0,
    qk_norm=True,
    tied=True,
    dtype="bfloat16",
  )


def tiny_moe() -> TransformerConfig:
  """The demo's decoder with 8 experts, of which a token takes 2, half as wide.

  A token meets about as many parameters as in `tiny`.
  """
  return dataclasses.replace(
    tiny(), mlp_dim=256, experts=Experts(num=8, per_token=2)
  )


def mixtral_8x7b() -> TransformerConfig:
  """46,702,792,704 parameters, of which a token meets 12.9e9."""
  return TransformerConfig(
    num_layers=32,
    embed_dim=4096,
    mlp_dim=14_336,
    num_heads=32,
    num_kv_heads=8,
    vocab_size=32_000,
    max_length=32_768,
    rope_theta=1_000_000.0,
    tied=False,
    dtype="bfloat16",
    experts=Experts(num=8, per_token=2, balance=1e-3),
  )


def qwen3_30b_a3b() -> TransformerConfig:
  """30,532,122,624 parameters, of which a token meets 3.35e9."""
  return dataclasses.replace(
    qwen3_0_6b(),
    num_layers=48,
    embed_dim=2048,
    mlp_dim=768,
    num_heads=32,
    num_kv_heads=4,
    tied=False,
    experts=Experts(num=128, per_token=8, balance=1e-3),
  )
