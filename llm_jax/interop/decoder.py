"""What the families that call things as Llama does have in common."""

from collections.abc import Sequence
from typing import Any

from llm_jax.interop.family import Keys, Settings, Told
from llm_jax.interop.heads import Head
from llm_jax.interop.lines import Line

ENDS = ("ForCausalLM", "Model")
TEXT = Head("text", "ForSequenceClassification", "score", bias=False)
TOKEN = Head("token", "ForTokenClassification", "score")
SPAN = Head("span", "ForQuestionAnswering", "qa_outputs")
KNOWN = (
  *("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads"),
  *("head_dim", "vocab_size", "max_length", "norm", "norm_eps", "norm_at"),
  *("norm_from_one", "embed_scale", "positions", "rope_theta"),
  *("rope_scaling", "activation", "qkv_bias", "out_bias", "mlp_bias"),
  *("qk_norm", "qk_norm_over", "window", "full_layers", "tied"),
)
# Our norms and theirs, by what a block normalises.
_NORMS = {
  "input": {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
  },
  "output": {
    "attention_norm": "post_attention_layernorm",
    "mlp_norm": "post_feedforward_layernorm",
  },
  "both": {
    "attention_norm": "input_layernorm",
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
  },
}


def settings(
  keys: Keys,
  *,
  kv_heads: int | None = None,
  head_dim: int | None = None,
  eps: float = 1e-6,
  length: int = 2048,
  tied: bool = False,
  biases: Sequence[str] = (),
) -> Settings:
  """Sizes, norm, biases and tying.

  Args:
    keys: of config.json.
    kv_heads: where it says none; None = as many as query heads.
    head_dim: where it says none; None = D / N.
    eps: where it says none.
    length: where it says none.
    tied: where it does not say.
    biases: which of attention_bias and mlp_bias it may have.
  """
  heads, width = keys.need("num_attention_heads"), keys.need("hidden_size")
  out: Settings = {
    "num_layers": keys.need("num_hidden_layers"),
    "embed_dim": width,
    "mlp_dim": keys.need("intermediate_size"),
    "num_heads": heads,
    "num_kv_heads": keys.get("num_key_value_heads", kv_heads or heads),
    "head_dim": keys.get("head_dim", head_dim or width // heads),
    "vocab_size": keys.need("vocab_size"),
    "max_length": keys.get("max_position_embeddings", length),
    "norm": "rms",
    "norm_eps": keys.get("rms_norm_eps", eps),
    "positions": "rope",
    "tied": keys.get("tie_word_embeddings", tied),
  }
  if "attention_bias" in biases:
    out["qkv_bias"] = out["out_bias"] = keys.get("attention_bias", False)
  if "mlp_bias" in biases:
    out["mlp_bias"] = keys.get("mlp_bias", False)
  return out


def config(settings: Settings, told: Told) -> dict[str, Any]:
  """The inverse of `settings`, but for biases."""
  told.must(norm=("rms", None), positions=("rope", None))
  heads, width = settings["num_heads"], settings["embed_dim"]
  return {
    "num_hidden_layers": settings["num_layers"],
    "hidden_size": width,
    "intermediate_size": settings["mlp_dim"],
    "num_attention_heads": heads,
    "num_key_value_heads": settings.get("num_kv_heads") or heads,
    "head_dim": settings.get("head_dim") or width // heads,
    "vocab_size": settings["vocab_size"],
    "max_position_embeddings": settings["max_length"],
    "rms_norm_eps": settings["norm_eps"],
    "tie_word_embeddings": told.get("tied", True),
  }


def attention_bias(told: Told) -> bool:
  """Whether all of the attention's maps have one; ValueError if some have."""
  bias: bool = told.get("qkv_bias", False)
  told.must(out_bias=(bias, *(() if bias else (None,))))
  return bias


def windows(keys: Keys, window: int | None, types: Sequence[str]) -> Settings:
  """Which layers have a window, by the names of their kinds."""
  layers = keys.get("num_hidden_layers", len(types))
  if len(types) != layers:
    raise ValueError(
      f"{keys.given}: config.json has layer_types of {len(types)} layers, and"
      f" num_hidden_layers={layers}"
    )
  for kind in types:
    if kind not in ("full_attention", "sliding_attention"):
      raise ValueError(
        f"{keys.given}: config.json has a layer of {kind!r} among layer_types;"
        " known are full_attention and sliding_attention"
      )
  full = tuple(i for i, kind in enumerate(types) if kind == "full_attention")
  if window is None or len(full) == len(types):
    return {"window": None, "full_layers": ()}
  return {"window": window, "full_layers": full}


def layer_types(settings: Settings) -> list[str]:
  """The inverse of `windows`."""
  layers = settings["num_layers"]
  near = set(range(layers if settings.get("window") else 0))
  near -= set(settings.get("full_layers") or ())
  return [
    "sliding_attention" if i in near else "full_attention"
    for i in range(layers)
  ]


def lines(settings: Settings, fused: bool = False) -> list[Line]:
  """Our parameters and their tensors, but for experts.

  Args:
    settings: of the model.
    fused: whether queries, keys and values are one tensor, and gate and up.
  """
  told, layer = Told(settings, "this"), "model.layers.{layer}."
  out = [
    Line("embedding", "model.embed_tokens.weight", "W E"),
    Line("final_norm/scale", "model.norm.weight", "D"),
  ]
  for ours, theirs in _NORMS.get(told.get("norm_at", "input"), {}).items():
    out.append(Line(f"blocks/{ours}/scale", f"{layer}{theirs}.weight", "D"))
  if not told.get("tied", True):
    out.append(Line("head", "lm_head.weight", "V D"))
  out += _attention(told, f"{layer}self_attn.", fused)
  if (settings.get("experts") or {}).get("num", 0):
    return out
  return out + _mlp(told, f"{layer}mlp.", fused)


def _attention(told: Told, layer: str, fused: bool) -> list[Line]:
  out, whole = [], told.get("qk_norm_over", "head") == "all"
  maps = (("query", "q", "NH"), ("key", "k", "KH"), ("value", "v", "KH"))
  for part, (ours, theirs, dims) in enumerate(maps):
    path, name = f"blocks/attention/{ours}", f"{layer}{theirs}_proj"
    if told.get("qk_norm", False) and theirs != "v":
      norm = f"{layer}{theirs}_norm.weight"
      out.append(Line(f"{path}_norm/scale", norm, dims if whole else "H"))
    if fused:
      name, dims = f"{layer}qkv_proj", "NH+KH+KH"
    out.append(Line(f"{path}/kernel", f"{name}.weight", f"{dims} D", part))
    if told.get("qkv_bias", False):
      out.append(Line(f"{path}/bias", f"{name}.bias", dims, part))
  path, name = "blocks/attention/out", f"{layer}o_proj"
  out.append(Line(f"{path}/kernel", f"{name}.weight", "D NH"))
  if told.get("out_bias", False):
    out.append(Line(f"{path}/bias", f"{name}.bias", "D"))
  return out


def _mlp(told: Told, layer: str, fused: bool) -> list[Line]:
  out, maps = [], (("gate", "F", "D"), ("up", "F", "D"), ("down", "D", "F"))
  for part, (ours, outputs, inputs) in enumerate(maps):
    path, name = f"blocks/mlp/{ours}", f"{layer}{ours}_proj"
    if fused and ours != "down":
      name, outputs = f"{layer}gate_up_proj", "F+F"
    dims = f"{outputs} {inputs}"
    out.append(Line(f"{path}/kernel", f"{name}.weight", dims, part))
    if told.get("mlp_bias", False):
      out.append(Line(f"{path}/bias", f"{name}.bias", outputs, part))
  return out
