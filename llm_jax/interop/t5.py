"""T5 v1.1 and FLAN-T5: gated GELU, and a head of its own.

arXiv:1910.10683; v1.1: arXiv:2002.05202. Sources of the defaults: the
configuration class of transformers 5.23.
"""

from typing import Any

from llm_jax.interop.family import Family, Keys, Settings
from llm_jax.interop.lines import Line

# What each of them is, in our settings.
_ALWAYS: Settings = {
  "norm": "rms",
  "positions": "relative",
  "activation": "geglu",
  "attention_scale": 1.0,
  "tied": False,
}


def _settings(keys: Keys) -> Settings:
  keys.must("feed_forward_proj", "gated-gelu")
  keys.must("tie_word_embeddings", False)
  keys.must("scale_decoder_outputs", False)
  layers = keys.get("num_layers", 6)
  keys.must("num_decoder_layers", layers)
  # Told by feed_forward_proj, and of training.
  keys.skip("dense_act_fn", "is_gated_act", "is_encoder_decoder")
  keys.skip("dropout_rate", "classifier_dropout", "initializer_factor")
  keys.skip("n_positions", "output_past")
  return {
    **_ALWAYS,
    "encoder": {},
    "num_layers": layers,
    "embed_dim": keys.get("d_model", 512),
    "mlp_dim": keys.get("d_ff", 2048),
    "num_heads": keys.get("num_heads", 8),
    "head_dim": keys.get("d_kv", 64),
    "vocab_size": keys.get("vocab_size", 32_128),
    "relative_buckets": keys.get("relative_attention_num_buckets", 32),
    "relative_distance": keys.get("relative_attention_max_distance", 128),
    "norm_eps": keys.get("layer_norm_epsilon", 1e-6),
    "start_id": keys.get("decoder_start_token_id", 0),
    # Distances have no end; this one is what rows of it were trained with.
    "max_length": keys.config.get("n_positions") or 512,
  }


def _config(settings: Settings) -> dict[str, Any]:
  raise ValueError("--model: encoder-decoders are read, and not yet written")


def _lines(settings: Settings) -> list[Line]:
  del settings
  out = [
    Line("embedding", "shared.weight", "W E"),
    Line("head", "lm_head.weight", "V D"),
  ]
  for ours, stack, mlp in (("encoder/", "encoder", 1), ("", "decoder", 2)):
    layer = f"{stack}.block.{{layer}}.layer."
    first = f"{stack}.block.0.layer.0.SelfAttention."
    out += [
      Line(f"{ours}distances", f"{first}relative_attention_bias.weight", "P N"),
      Line(f"{ours}final_norm/scale", f"{stack}.final_layer_norm.weight", "D"),
    ]
    parts = [("attention", 0, "SelfAttention")]
    if not ours:
      parts.append(("cross", 1, "EncDecAttention"))
    blocks = f"{ours}blocks/"
    for half, i, name in parts:
      norm = f"{layer}{i}.layer_norm.weight"
      out.append(Line(f"{blocks}{half}_norm/scale", norm, "D"))
      for map_, letter, dims in (
        ("query", "q", "NH D"),
        ("key", "k", "KH D"),
        ("value", "v", "KH D"),
        ("out", "o", "D NH"),
      ):
        their = f"{layer}{i}.{name}.{letter}.weight"
        out.append(Line(f"{blocks}{half}/{map_}/kernel", their, dims))
    norm = f"{layer}{mlp}.layer_norm.weight"
    out.append(Line(f"{blocks}mlp_norm/scale", norm, "D"))
    for map_, word, dims in (
      ("gate", "wi_0", "F D"),
      ("up", "wi_1", "F D"),
      ("down", "wo", "D F"),
    ):
      their = f"{layer}{mlp}.DenseReluDense.{word}.weight"
      out.append(Line(f"{blocks}mlp/{map_}/kernel", their, dims))
  return out


FAMILY = Family(
  name="t5",
  architectures=("T5ForConditionalGeneration",),
  settings=_settings,
  config=_config,
  lines=_lines,
  prefix="",
  # Of older files: distances are told in self-attention alone.
  extra=("EncDecAttention.relative_attention_bias.weight",),
  copies=(
    ("encoder.embed_tokens.weight", "embedding"),
    ("decoder.embed_tokens.weight", "embedding"),
  ),
)
