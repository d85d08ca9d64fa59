"""ModernBERT, with the head that says what a mask hides. arXiv:2412.13663.

Sources of the defaults: the configuration class of transformers 5.23.
"""

from typing import Any

from llm_jax.interop import decoder, family, heads, rotary
from llm_jax.interop.family import Family, Keys, Settings, Told
from llm_jax.interop.heads import Head
from llm_jax.interop.lines import Line

_TEXT = "ForSequenceClassification"
# What every ModernBERT is, in our settings.
_ALWAYS: Settings = {
  "sees": "all",
  "norm": "layer",
  "embed_norm": True,
  "first_norm": False,
  "positions": "rope",
  "activation": "geglu_exact",
}


def _settings(keys: Keys) -> Settings:
  keys.must("hidden_activation", "gelu")
  keys.must("classifier_activation", "gelu")
  # Of training, of other heads, of older files and of nothing at all.
  keys.skip("embedding_dropout", "mlp_dropout", "classifier_dropout")
  keys.skip("deterministic_flash_attn")
  if keys.architecture.endswith(_TEXT):
    keys.must("classifier_pooling", "cls")
  keys.skip("classifier_pooling")
  keys.skip("initializer_cutoff_factor", "sparse_prediction")
  keys.skip("sparse_pred_ignore_index", "cls_token_id", "sep_token_id")
  keys.skip("reference_compile", "repad_logits_with_grad", "layer_norm_eps")
  keys.skip("position_embedding_type")
  layers = keys.get("num_hidden_layers", 22)
  every = keys.get("global_attn_every_n_layers", 3)
  types = [
    "sliding_attention" if i % every else "full_attention"
    for i in range(layers)
  ]
  masked = keys.architecture.endswith("ForMaskedLM")
  head = masked or keys.architecture in FAMILY.heads
  bias = keys.get("attention_bias", False)
  length = keys.get("max_position_embeddings", 8192)
  dense, logits = (
    keys.get("classifier_bias", False),
    keys.get("decoder_bias", True),
  )
  windows = decoder.windows(
    keys, keys.get("local_attention", 128), keys.get("layer_types", types)
  )
  return {
    **_ALWAYS,
    "num_layers": layers,
    "embed_dim": keys.get("hidden_size", 768),
    "mlp_dim": keys.get("intermediate_size", 1152),
    "num_heads": keys.get("num_attention_heads", 12),
    "vocab_size": keys.get("vocab_size", 50_368),
    "max_length": length,
    "norm_eps": keys.get("norm_eps", 1e-5),
    "norm_bias": keys.get("norm_bias", False),
    "qkv_bias": bias,
    "out_bias": bias,
    "mlp_bias": keys.get("mlp_bias", False),
    "head_dense": head,
    "head_dense_bias": dense if head else True,
    "head_bias": logits and masked,
    "tied": keys.get("tie_word_embeddings", True),
    **windows,
    **rotary.by_layers(
      keys,
      ("global_rope_theta", 160_000.0),
      ("local_rope_theta", 10_000.0),
      length,
      windows["window"],
    ),
  }


_KNOWN = (
  *("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads"),
  *("head_dim", "vocab_size", "max_length", "norm_eps", "norm_bias"),
  *("qkv_bias", "out_bias", "mlp_bias", "head_dense", "head_dense_bias"),
  *("head_bias", "tied", "window", "full_layers", "window_theta"),
  *("rope_theta", "rope_scaling", *_ALWAYS),
)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s = Told(settings, "ModernBERT's")
  s.must(**{name: (value,) for name, value in _ALWAYS.items()})
  heads, width = settings["num_heads"], settings["embed_dim"]
  s.must(num_kv_heads=(None, 0, heads), head_dim=(None, 0, width // heads))
  head = s.get("head_dense", False)
  if not head:
    s.must(head_bias=(False, None), tied=(True, None))
  out = {
    "architectures": [f"ModernBert{'ForMaskedLM' if head else 'Model'}"],
    "model_type": "modernbert",
    "num_hidden_layers": settings["num_layers"],
    "hidden_size": width,
    "intermediate_size": settings["mlp_dim"],
    "num_attention_heads": heads,
    "vocab_size": settings["vocab_size"],
    "max_position_embeddings": settings["max_length"],
    "norm_eps": settings["norm_eps"],
    "norm_bias": s.get("norm_bias", False),
    "attention_bias": decoder.attention_bias(s),
    "mlp_bias": s.get("mlp_bias", False),
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "classifier_bias": s.get("head_dense_bias", True),
    "classifier_pooling": "cls",
    "decoder_bias": s.get("head_bias", False),
    "tie_word_embeddings": s.get("tied", True),
    "layer_types": decoder.layer_types(settings),
    **rotary.config_by_layers(settings),
  }
  if window := settings.get("window"):
    out["local_attention"] = window
  return out


def _lines(settings: Settings) -> list[Line]:
  s, layer = Told(settings, "this"), "model.layers.{layer}."
  out = [Line("embedding", "model.embeddings.tok_embeddings.weight", "W E")]
  norms = {
    "embed_norm": "model.embeddings.norm",
    "final_norm": "model.final_norm",
    "blocks/mlp_norm": f"{layer}mlp_norm",
    "blocks/attention_norm": f"{layer}attn_norm",  # but for the first
  }
  if not s.get("tied", True):
    out.append(Line("head", "decoder.weight", "V D"))
  if s.get("head_bias", False):
    out.append(Line("head_bias", "decoder.bias", "V"))
  if s.get("head_dense", False):
    norms["head_norm"] = "head.norm"
    out.append(Line("head_dense/kernel", "head.dense.weight", "_ D"))
    if s.get("head_dense_bias", True):
      out.append(Line("head_dense/bias", "head.dense.bias", "_"))
  for ours, theirs in norms.items():
    first = int(theirs.endswith("attn_norm"))
    out.append(Line(f"{ours}/scale", f"{theirs}.weight", "D", first=first))
    if s.get("norm_bias", False):
      out.append(Line(f"{ours}/bias", f"{theirs}.bias", "D", first=first))
  fused = "NH+KH+KH"
  maps = (
    ("attention/query", "attn.Wqkv", fused, "D", 0, "qkv_bias"),
    ("attention/key", "attn.Wqkv", fused, "D", 1, "qkv_bias"),
    ("attention/value", "attn.Wqkv", fused, "D", 2, "qkv_bias"),
    ("attention/out", "attn.Wo", "D", "NH", 0, "out_bias"),
    ("mlp/gate", "mlp.Wi", "F+F", "D", 0, "mlp_bias"),
    ("mlp/up", "mlp.Wi", "F+F", "D", 1, "mlp_bias"),
    ("mlp/down", "mlp.Wo", "D", "F", 0, "mlp_bias"),
  )
  for ours, theirs, outputs, inputs, part, bias in maps:
    path, name = f"blocks/{ours}", f"{layer}{theirs}"
    dims = f"{outputs} {inputs}"
    out.append(Line(f"{path}/kernel", f"{name}.weight", dims, part))
    if s.get(bias, False):
      out.append(Line(f"{path}/bias", f"{name}.bias", outputs, part))
  return out


FAMILY = Family(
  name="modernbert",
  architectures=("ModernBertForMaskedLM", "ModernBertModel"),
  settings=_settings,
  config=_config,
  lines=_lines,
  known=_KNOWN,
  copies=(("decoder.weight", "embedding"),),
  heads=heads.named(
    ("ModernBert",),
    Head("text", _TEXT, "classifier", dense="head"),
    Head("token", "ForTokenClassification", "classifier", dense="head"),
    Head("span", "ForQuestionAnswering", "classifier", dense="head"),
  ),
)
