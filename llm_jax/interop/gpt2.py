"""GPT-2, whose maps are stored as they multiply: [inputs, outputs].

Sources of the defaults: the configuration class of transformers 5.23.
"""

from typing import Any

from llm_jax.interop import decoder, family, heads
from llm_jax.interop.family import Family, Keys, Settings
from llm_jax.interop.lines import Line

# What every GPT-2 is, in our settings.
_ALWAYS: Settings = {
  "norm": "layer",
  "norm_bias": True,
  "positions": "learned",
  "qkv_bias": True,
  "out_bias": True,
  "mlp_bias": True,
}
_ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}


def _settings(keys: Keys) -> Settings:
  width = keys.get("n_embd", 768)
  keys.must("scale_attn_weights", True)
  keys.must("scale_attn_by_inverse_layer_idx", False)
  keys.must("add_cross_attention", False)
  activation = keys.must("activation_function", *_ACTIVATIONS)
  # Of training, of precision, and of a head that is not read.
  keys.skip("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx")
  keys.skip("reorder_and_upcast_attn")
  keys.skip(*(name for name in keys.config if name.startswith("summary_")))
  return {
    **_ALWAYS,
    "num_layers": keys.get("n_layer", 12),
    "embed_dim": width,
    "mlp_dim": keys.get("n_inner", 4 * width),
    "num_heads": keys.get("n_head", 12),
    "vocab_size": keys.get("vocab_size", 50_257),
    "max_length": keys.get("n_positions", 1024),
    "norm_eps": keys.get("layer_norm_epsilon", 1e-5),
    "activation": _ACTIVATIONS[activation],
    "tied": keys.get("tie_word_embeddings", True),
  }


_KNOWN = (
  *("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads"),
  *("head_dim", "vocab_size", "max_length", "norm_eps", "activation", "tied"),
  *_ALWAYS,
)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  for name, value in {**_ALWAYS, "activation": "gelu"}.items():
    if settings.get(name) != value:
      raise ValueError(
        f"--model.{name}={settings.get(name)}: a GPT-2 has {value}"
      )
  heads, width = settings["num_heads"], settings["embed_dim"]
  if settings.get("num_kv_heads") not in (None, 0, heads):
    raise ValueError("--model.num_kv_heads: a GPT-2 has as many as query heads")
  if settings.get("head_dim") not in (None, 0, width // heads):
    raise ValueError("--model.head_dim: that of a GPT-2 is D / N")
  return {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_layer": settings["num_layers"],
    "n_embd": width,
    "n_inner": settings["mlp_dim"],
    "n_head": heads,
    "vocab_size": settings["vocab_size"],
    "n_positions": settings["max_length"],
    "layer_norm_epsilon": settings["norm_eps"],
    "activation_function": "gelu_new",
    "tie_word_embeddings": settings.get("tied", True),
  }


def _lines(settings: Settings) -> list[Line]:
  layer, fused = "transformer.h.{layer}.", "NH+KH+KH"
  out = [
    Line("embedding", "transformer.wte.weight", "W E"),
    Line("positions", "transformer.wpe.weight", "P E"),
  ]
  if not settings.get("tied", True):
    out.append(Line("head", "lm_head.weight", "V D"))
  norms = {
    "final_norm": "transformer.ln_f",
    "blocks/attention_norm": f"{layer}ln_1",
    "blocks/mlp_norm": f"{layer}ln_2",
  }
  for ours, theirs in norms.items():
    out.append(Line(f"{ours}/scale", f"{theirs}.weight", "D"))
    out.append(Line(f"{ours}/bias", f"{theirs}.bias", "D"))
  maps = [
    ("attention/query", "attn.c_attn", "D", fused, 0),
    ("attention/key", "attn.c_attn", "D", fused, 1),
    ("attention/value", "attn.c_attn", "D", fused, 2),
    ("attention/out", "attn.c_proj", "NH", "D", 0),
    ("mlp/up", "mlp.c_fc", "D", "F", 0),
    ("mlp/down", "mlp.c_proj", "F", "D", 0),
  ]
  for ours, theirs, inputs, outputs, part in maps:
    path, name, dims = f"blocks/{ours}", layer + theirs, f"{inputs} {outputs}"
    out.append(Line(f"{path}/kernel", f"{name}.weight", dims, part))
    out.append(Line(f"{path}/bias", f"{name}.bias", outputs, part))
  return out


FAMILY = Family(
  name="gpt2",
  architectures=("GPT2LMHeadModel", "GPT2Model"),
  settings=_settings,
  config=_config,
  lines=_lines,
  prefix="transformer.",
  extra=(".attn.bias", ".attn.masked_bias"),
  known=_KNOWN,
  heads=heads.named(
    ("GPT2",),
    decoder.TEXT,
    decoder.TOKEN._replace(map="classifier"),
    decoder.SPAN,
  ),
)
