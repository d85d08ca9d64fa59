"""T5: v1.0 (ReLU, a tied head), v1.1 and FLAN-T5 (gated GELU, a head apart).

arXiv:1910.10683; v1.1: arXiv:2002.05202. Sources of the defaults: the
configuration class of transformers 5.23.
"""

from typing import Any

from llm_jax.interop import family, heads
from llm_jax.interop.family import Family, Keys, Settings, Told
from llm_jax.interop.heads import Head
from llm_jax.interop.lines import Line

# What each of them is, in our settings.
_ALWAYS: Settings = {
  "norm": "rms",
  "positions": "relative",
  "attention_scale": 1.0,
}
# feed_forward_proj -> ours.
_ACTIVATIONS = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}


def _settings(keys: Keys) -> Settings:
  activation = keys.must("feed_forward_proj", *_ACTIVATIONS)
  # Where the head is the table, what it reads is scaled; files of transformers
  # 5 tell of that apart, and there every head is called tied, and is where none
  # is stored (`own_head`).
  tied = keys.get("tie_word_embeddings", True)
  keys.must("scale_decoder_outputs", tied, False)
  tied = keys.get("scale_decoder_outputs", tied)
  layers = keys.get("num_layers", 6)
  keys.must("is_encoder_decoder", True)
  # Told by feed_forward_proj, and of training.
  keys.skip("dense_act_fn", "is_gated_act")
  keys.skip("dropout_rate", "classifier_dropout", "initializer_factor")
  keys.skip("n_positions", "output_past", *family.DRAWING)
  return {
    **_ALWAYS,
    "encoder": {"num_layers": layers},
    "num_layers": keys.get("num_decoder_layers", layers),
    "embed_dim": keys.get("d_model", 512),
    "mlp_dim": keys.get("d_ff", 2048),
    "num_heads": keys.get("num_heads", 8),
    "head_dim": keys.get("d_kv", 64),
    "vocab_size": keys.get("vocab_size", 32_128),
    "activation": _ACTIVATIONS[activation],
    "relative_buckets": keys.get("relative_attention_num_buckets", 32),
    "relative_distance": keys.get("relative_attention_max_distance", 128),
    "norm_eps": keys.get("layer_norm_epsilon", 1e-6),
    "tied": tied,
    "head_scale": tied,
    "start_id": keys.get("decoder_start_token_id", 0),
    "first_id": keys.first_id(),
    # Distances have no end; this one is what rows of it were trained with.
    "max_length": keys.config.get("n_positions") or 512,
  }


_UNSCALED = {"scale_decoder_outputs": False}
_KNOWN = (
  *("encoder", "num_layers", "embed_dim", "mlp_dim", "num_heads"),
  *("num_kv_heads", "head_dim", "vocab_size", "max_length", "norm_eps"),
  *("activation", "relative_buckets", "relative_distance", "start_id"),
  *("first_id", "tied", "head_scale", *_ALWAYS),
)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s, names = Told(settings, "T5's"), {v: k for k, v in _ACTIVATIONS.items()}
  s.must(**{name: (value,) for name, value in _ALWAYS.items()})
  s.must(activation=tuple(names), num_kv_heads=(settings["num_heads"],))
  tied = s.get("tied", True)
  if not tied:
    s.must(head_scale=(False, None))
  encoder = family.encoder(settings)
  for name in ("num_heads", "num_kv_heads", "head_dim", "mlp_dim"):
    if encoder[name] != settings[name]:
      raise ValueError(
        f"--model.encoder.{name}={encoder[name]}: in a T5 that of the decoder,"
        f" {settings[name]}"
      )
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "num_layers": encoder["num_layers"],
    "num_decoder_layers": settings["num_layers"],
    "d_model": settings["embed_dim"],
    "d_ff": settings["mlp_dim"],
    "d_kv": settings["head_dim"],
    "num_heads": settings["num_heads"],
    "vocab_size": settings["vocab_size"],
    "feed_forward_proj": names[settings["activation"]],
    "relative_attention_num_buckets": s.get("relative_buckets", 32),
    "relative_attention_max_distance": s.get("relative_distance", 128),
    "layer_norm_epsilon": settings["norm_eps"],
    "n_positions": settings["max_length"],
    "tie_word_embeddings": tied,
    # Which transformers 5 knows, and those before do not.
    **({} if s.get("head_scale", tied) == tied else _UNSCALED),
    **family.begins(settings),
  }


def _lines(settings: Settings) -> list[Line]:
  out = [Line("embedding", "shared.weight", "W E")]
  if not settings["tied"]:
    out.append(Line("head", "lm_head.weight", "V D"))
  maps = [("up", "wi", "F D"), ("down", "wo", "D F")]
  if settings["activation"] != "relu":
    maps[:1] = [("gate", "wi_0", "F D"), ("up", "wi_1", "F D")]
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
    for map_, word, dims in maps:
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
    ("lm_head.weight", "embedding"),
  ),
  known=_KNOWN,
  heads=heads.named(
    ("T5",),
    Head(
      *("text", "ForSequenceClassification", "classification_head.out_proj"),
      dense="tanh",
      lines=heads.dense("classification_head.dense"),
      root="transformer.",
    ),
    Head("span", "ForQuestionAnswering", "qa_outputs"),
  ),
  own_head="lm_head.weight",
)
