"""BART: norms of sums, learned places, a bias in every map.

arXiv:1910.13461. Sources of the defaults: the configuration class of
transformers 5.23.
"""

from typing import Any

from llm_jax.interop import family, heads
from llm_jax.interop.family import Family, Keys, Settings, Told
from llm_jax.interop.heads import Head
from llm_jax.interop.lines import Line

# What every BART is, in our settings.
_ALWAYS: Settings = {
  "norm": "layer",
  "norm_bias": True,
  "norm_at": "sum",
  "norm_eps": 1e-5,
  "embed_norm": True,
  "positions": "learned",
  "position_offset": 2,
  "qkv_bias": True,
  "out_bias": True,
  "mlp_bias": True,
}
# activation_function -> ours.
_ACTIVATIONS = {"gelu": "gelu_exact", "relu": "relu", "gelu_new": "gelu"}


def _settings(keys: Keys) -> Settings:
  keys.must("tie_word_embeddings", True)
  keys.must("normalize_before", False)
  keys.must("normalize_embedding", True)
  keys.must("add_final_layer_norm", False)
  keys.must("static_position_embeddings", False)
  keys.must("extra_pos_embeddings", 2)
  keys.must("is_encoder_decoder", True)
  activation = keys.must("activation_function", *_ACTIVATIONS)
  layers = keys.get("encoder_layers", 12)
  # Of training, and of other heads.
  keys.skip("dropout", "activation_dropout", "init_std", "add_bias_logits")
  keys.skip("encoder_layerdrop", "decoder_layerdrop", "num_hidden_layers")
  keys.skip("classif_dropout", "classifier_dropout", *family.DRAWING)
  return {
    **_ALWAYS,
    "encoder": {
      "num_layers": layers,
      "num_heads": keys.get("encoder_attention_heads", 16),
      "mlp_dim": keys.get("encoder_ffn_dim", 4096),
    },
    "num_layers": keys.get("decoder_layers", 12),
    "embed_dim": keys.get("d_model", 1024),
    "mlp_dim": keys.get("decoder_ffn_dim", 4096),
    "num_heads": keys.get("decoder_attention_heads", 16),
    "vocab_size": keys.get("vocab_size", 50_265),
    "max_length": keys.get("max_position_embeddings", 1024),
    "activation": _ACTIVATIONS[activation],
    "embed_scale": keys.get("scale_embedding", False),
    "head_bias": keys.architecture.endswith("ForConditionalGeneration"),
    "tied": True,
    "start_id": keys.get("decoder_start_token_id", 2),
    "first_id": keys.first_id(),
  }


_KNOWN = (
  *("encoder", "num_layers", "embed_dim", "mlp_dim", "num_heads"),
  *("num_kv_heads", "head_dim", "vocab_size", "max_length", "activation"),
  *("embed_scale", "head_bias", "tied", "start_id", "first_id"),
  *_ALWAYS,
)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s, names = Told(settings, "BART's"), {v: k for k, v in _ACTIVATIONS.items()}
  s.must(**{name: (value,) for name, value in _ALWAYS.items()})
  s.must(activation=tuple(names), tied=(True, None))
  encoder, width = family.encoder(settings), settings["embed_dim"]
  for part, its in (("", settings), ("encoder.", encoder)):
    count = its["num_heads"]
    if (its["num_kv_heads"], its["head_dim"]) != (count, width / count):
      raise ValueError(
        f"--model.{part}num_heads={count}: in a BART as many are of keys, each"
        " D / N wide"
      )
  kind = "ForConditionalGeneration" if s.get("head_bias", False) else "Model"
  return {
    "architectures": [f"Bart{kind}"],
    "model_type": "bart",
    "is_encoder_decoder": True,
    "encoder_layers": encoder["num_layers"],
    "encoder_attention_heads": encoder["num_heads"],
    "encoder_ffn_dim": encoder["mlp_dim"],
    "decoder_layers": settings["num_layers"],
    "decoder_attention_heads": settings["num_heads"],
    "decoder_ffn_dim": settings["mlp_dim"],
    "d_model": width,
    "vocab_size": settings["vocab_size"],
    "max_position_embeddings": settings["max_length"],
    "activation_function": names[settings["activation"]],
    "scale_embedding": s.get("embed_scale", False),
    "tie_word_embeddings": True,
    **family.begins(settings),
  }


def _lines(settings: Settings) -> list[Line]:
  out = [Line("embedding", "model.shared.weight", "W E")]
  if settings.get("head_bias", False):
    out.append(Line("head_bias", "final_logits_bias", "1 V"))
  for ours, stack in (("encoder/", "encoder"), ("", "decoder")):
    root, layer = f"model.{stack}.", f"model.{stack}.layers.{{layer}}."
    out.append(Line(f"{ours}positions", f"{root}embed_positions.weight", "P E"))
    blocks = f"{ours}blocks/"
    norms = {
      f"{ours}embed_norm": f"{root}layernorm_embedding",
      f"{blocks}mlp_norm": f"{layer}final_layer_norm",
    }
    maps = [("mlp/up", "fc1", "F", "D"), ("mlp/down", "fc2", "D", "F")]
    halves = [("attention", "self_attn")]
    if not ours:
      halves.append(("cross", "encoder_attn"))
    for half, name in halves:
      norms[f"{blocks}{half}_norm"] = f"{layer}{name}_layer_norm"
      maps += [
        (f"{half}/query", f"{name}.q_proj", "NH", "D"),
        (f"{half}/key", f"{name}.k_proj", "KH", "D"),
        (f"{half}/value", f"{name}.v_proj", "KH", "D"),
        (f"{half}/out", f"{name}.out_proj", "D", "NH"),
      ]
    for path, their in norms.items():
      out.append(Line(f"{path}/scale", f"{their}.weight", "D"))
      out.append(Line(f"{path}/bias", f"{their}.bias", "D"))
    for map_, word, outputs, inputs in maps:
      path, their = f"{blocks}{map_}", f"{layer}{word}"
      dims = f"{outputs} {inputs}"
      out.append(Line(f"{path}/kernel", f"{their}.weight", dims))
      out.append(Line(f"{path}/bias", f"{their}.bias", outputs))
  return out


FAMILY = Family(
  name="bart",
  architectures=("BartForConditionalGeneration", "BartModel"),
  settings=_settings,
  config=_config,
  lines=_lines,
  extra=("encoder.version", "decoder.version"),
  copies=(
    ("model.encoder.embed_tokens.weight", "embedding"),
    ("model.decoder.embed_tokens.weight", "embedding"),
    ("lm_head.weight", "embedding"),
  ),
  known=_KNOWN,
  heads=heads.named(
    ("Bart",),
    Head(
      *("text", "ForSequenceClassification", "classification_head.out_proj"),
      dense="tanh",
      lines=heads.dense("classification_head.dense"),
      untold=3,
    ),
    Head("span", "ForQuestionAnswering", "qa_outputs"),
  ),
)
