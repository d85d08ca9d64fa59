"""Llama 2 and 3.x, Mistral, Mixtral, Qwen 2, Qwen 2.5, Qwen 3 and its MoE.

They share names and block; each has a few settings of its own. Sources of the
defaults: the configuration classes of transformers 5.23.
"""

from typing import Any, NamedTuple

from llm_jax.interop import family
from llm_jax.interop.family import Family, Keys, Settings
from llm_jax.interop.lines import Line


class _Kind(NamedTuple):
  """In what a member of the group differs; defaults where a key is absent."""

  type: str  # model_type
  kv_heads: int | None = None  # None = as many as query heads
  head_dim: int | None = None  # None = D / N
  eps: float = 1e-6
  length: int = 32_768
  theta: float = 10_000.0
  window: int | None = None
  biases: tuple[str, ...] = ()  # keys that it knows of these
  qkv_bias: bool = False
  qk_norm: bool = False
  experts: str = ""  # key of their number
  num_experts: int = 0


_KINDS = {
  "Llama": _Kind("llama", length=2048, biases=("attention_bias", "mlp_bias")),
  "Mistral": _Kind("mistral", 8, length=131_072, window=4096),
  "Mixtral": _Kind(
    *("mixtral", 8),
    eps=1e-5,
    length=131_072,
    theta=1e6,
    experts="num_local_experts",
    num_experts=8,
  ),
  "Qwen2": _Kind("qwen2", qkv_bias=True),
  "Qwen3": _Kind("qwen3", None, 128, biases=("attention_bias",), qk_norm=True),
  "Qwen3Moe": _Kind(
    *("qwen3_moe", 4),
    biases=("attention_bias",),
    qk_norm=True,
    experts="num_experts",
    num_experts=128,
  ),
}
_HEADS = ("ForCausalLM", "ForSequenceClassification", "Model")


def _kind(architecture: str) -> _Kind:
  for head in _HEADS:
    if architecture.endswith(head):
      return _KINDS[architecture.removesuffix(head)]
  raise KeyError(architecture)


def _settings(keys: Keys) -> Settings:
  kind = _kind(keys.architecture)
  heads, width = keys.need("num_attention_heads"), keys.need("hidden_size")
  keys.must("hidden_act", "silu", "swish")
  out: Settings = {
    "num_layers": keys.need("num_hidden_layers"),
    "embed_dim": width,
    "mlp_dim": keys.need("intermediate_size"),
    "num_heads": heads,
    "num_kv_heads": keys.get("num_key_value_heads", kind.kv_heads or heads),
    "head_dim": keys.get("head_dim", kind.head_dim or width // heads),
    "vocab_size": keys.need("vocab_size"),
    "max_length": keys.get("max_position_embeddings", kind.length),
    "norm": "rms",
    "norm_eps": keys.get("rms_norm_eps", kind.eps),
    "positions": "rope",
    "activation": "swiglu",
    "qkv_bias": kind.qkv_bias,
    "qk_norm": kind.qk_norm,
    "tied": keys.get("tie_word_embeddings", False),
    "window": _window(keys, kind),
  }
  if "attention_bias" in kind.biases:
    out["qkv_bias"] = out["out_bias"] = keys.get("attention_bias", False)
  if "mlp_bias" in kind.biases:
    out["mlp_bias"] = keys.get("mlp_bias", False)
  out |= family.rope(keys, kind.theta)
  if kind.experts:
    out |= _experts(keys, kind)
  return out


def _window(keys: Keys, kind: _Kind) -> int | None:
  """The window of all layers; ValueError where some have one, some none."""
  if not kind.type.startswith("qwen"):
    if kind.window is None and "sliding_window" not in keys.config:
      return None
    # Null says that there is none; absent, that it is Mistral's.
    window = keys.config.get("sliding_window", kind.window)
    keys.skip("sliding_window")
    return window
  window = keys.get("sliding_window", 4096)
  used = keys.get("use_sliding_window", False)
  layers, first = keys.need("num_hidden_layers"), 0
  if kind.type != "qwen3_moe":
    first = keys.get("max_window_layers", 28)
  else:
    keys.skip("max_window_layers")
  rest = max(layers - first, 0) if used else 0
  types = keys.get("layer_types", None)
  if types is not None:
    rest = types.count("sliding_attention") if used else 0
    if rest == 0 and "sliding_attention" in types:
      keys.must("layer_types", ["full_attention"] * layers)
  if 0 < rest < layers:
    raise ValueError(
      f"{keys.given}: config.json has a sliding window in {rest} of"
      f" {layers} layers (max_window_layers); known is all or none"
    )
  return window if rest else None


def _experts(keys: Keys, kind: _Kind) -> Settings:
  sparse = kind.type == "qwen3_moe"
  other = (
    "num_experts" if kind.experts != "num_experts" else "num_local_experts"
  )
  number = keys.get(other, None)  # transformers knows it by both names
  out: Settings = {
    "experts": {
      "num": keys.get(kind.experts, number or kind.num_experts),
      "per_token": keys.get("num_experts_per_tok", 8 if sparse else 2),
      "normalise": keys.get("norm_topk_prob", False) if sparse else True,
    }
  }
  if sparse:
    out["mlp_dim"] = keys.get("moe_intermediate_size", 768)
    keys.must("decoder_sparse_step", 1)
    keys.must("mlp_only_layers", [])
  keys.skip("router_jitter_noise")  # of training
  return out


_KNOWN = (
  *("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads"),
  *("head_dim", "vocab_size", "max_length", "norm", "norm_eps", "norm_bias"),
  *("positions", "rope_theta", "rope_scaling", "activation", "qkv_bias"),
  *("out_bias", "mlp_bias", "qk_norm", "window", "tied", "experts", "outputs"),
)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s = _Read(settings)
  s.must(norm=("rms", None), positions=("rope", None), norm_bias=(False, None))
  s.must(activation=("swiglu", None))
  experts = settings.get("experts") or {}
  num, window = experts.get("num", 0), settings.get("window")
  qkv, out_bias = s.get("qkv_bias", False), s.get("out_bias", False)
  mlp_bias, qk_norm = s.get("mlp_bias", False), s.get("qk_norm", False)
  if num:
    name = "Qwen3Moe" if qk_norm else "Mixtral"
  elif qk_norm:
    name = "Qwen3"
  elif qkv and not out_bias:
    name = "Qwen2"
  else:
    name = "Mistral" if window else "Llama"
  kind = _KINDS[name]
  both = "attention_bias" in kind.biases
  s.must(mlp_bias=(mlp_bias and "mlp_bias" in kind.biases, None))
  s.must(out_bias=(qkv if both else False, None))
  s.must(qkv_bias=(qkv if both else kind.qkv_bias, None))
  heads, width = settings["num_heads"], settings["embed_dim"]
  out = {
    "architectures": [f"{name}ForCausalLM"],
    "model_type": kind.type,
    "num_hidden_layers": settings["num_layers"],
    "hidden_size": width,
    "intermediate_size": settings["mlp_dim"],
    "num_attention_heads": heads,
    "num_key_value_heads": settings.get("num_kv_heads") or heads,
    "head_dim": settings.get("head_dim") or width // heads,
    "vocab_size": settings["vocab_size"],
    "max_position_embeddings": settings["max_length"],
    "rms_norm_eps": settings["norm_eps"],
    "hidden_act": "silu",
    "tie_word_embeddings": s.get("tied", True),
    **family.rope_config(settings),
  }
  biases = {"attention_bias": qkv, "mlp_bias": mlp_bias}
  out |= {key: biases[key] for key in kind.biases}
  if kind.type.startswith("qwen"):
    out |= {"use_sliding_window": bool(window), "sliding_window": window}
    out["max_window_layers"] = 0 if window else settings["num_layers"]
  elif name in ("Mistral", "Mixtral"):
    out["sliding_window"] = window
  if num:
    out[kind.experts] = num
    out["num_experts_per_tok"] = experts["per_token"]
  if name == "Qwen3Moe":
    out["norm_topk_prob"] = experts["normalise"]
    out["moe_intermediate_size"] = settings["mlp_dim"]
    out |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
  elif num and not experts["normalise"]:
    raise ValueError(
      "--model.experts.normalise=False: a Mixtral's weights always sum to 1"
    )
  return out


class _Read:
  """Settings, with what they may be."""

  def __init__(self, settings: Settings):
    self._settings = settings

  def get(self, name: str, default: Any) -> Any:
    found = self._settings.get(name)
    return default if found is None else found

  def must(self, **allowed: tuple) -> None:
    for name, these in allowed.items():
      found = self._settings.get(name)
      if found not in these:
        raise ValueError(
          f"--model.{name}={found}: no family of Llama's kind has it"
        )


def _lines(settings: Settings) -> list[Line]:
  s, layer = _Read(settings), "model.layers.{layer}."
  attention, mlp = f"{layer}self_attn.", f"{layer}mlp."
  out = [
    Line("embedding", "model.embed_tokens.weight", "W E"),
    Line("final_norm/scale", "model.norm.weight", "D"),
    Line("blocks/attention_norm/scale", f"{layer}input_layernorm.weight", "D"),
    Line(
      "blocks/mlp_norm/scale", f"{layer}post_attention_layernorm.weight", "D"
    ),
  ]
  if not s.get("tied", True):
    out.append(Line("head", "lm_head.weight", "V D"))
  if s.get("outputs", 0):
    out.append(Line("output_head", "score.weight", "O D"))
  maps = (("query", "q", "NH"), ("key", "k", "KH"), ("value", "v", "KH"))
  for ours, theirs, dims in maps:
    path, name = f"blocks/attention/{ours}", f"{attention}{theirs}_proj"
    out.append(Line(f"{path}/kernel", f"{name}.weight", f"{dims} D"))
    if s.get("qkv_bias", False):
      out.append(Line(f"{path}/bias", f"{name}.bias", dims))
    if s.get("qk_norm", False) and theirs != "v":
      norm = f"{attention}{theirs}_norm.weight"
      out.append(Line(f"{path}_norm/scale", norm, "H"))
  path, name = "blocks/attention/out", f"{attention}o_proj"
  out.append(Line(f"{path}/kernel", f"{name}.weight", "D NH"))
  if s.get("out_bias", False):
    out.append(Line(f"{path}/bias", f"{name}.bias", "D"))
  if (settings.get("experts") or {}).get("num", 0):
    return out + _expert_lines(layer, s.get("qk_norm", False))
  for ours, dims in (("gate", "F D"), ("up", "F D"), ("down", "D F")):
    path, name = f"blocks/mlp/{ours}", f"{mlp}{ours}_proj"
    out.append(Line(f"{path}/kernel", f"{name}.weight", dims))
    if s.get("mlp_bias", False):
      out.append(Line(f"{path}/bias", f"{name}.bias", dims[0]))
  return out


def _expert_lines(layer: str, qwen: bool) -> list[Line]:
  """Of a mixture: Qwen's names or Mixtral's."""
  part = f"{layer}mlp." if qwen else f"{layer}block_sparse_moe."
  names = {"gate": "w1", "up": "w3", "down": "w2"}
  if qwen:
    names = {name: f"{name}_proj" for name in names}
  return [
    Line("blocks/mlp/router", f"{part}gate.weight", "M D"),
    *(
      Line(
        f"blocks/mlp/{ours}/kernel",
        f"{part}experts.{{expert}}.{theirs}.weight",
        "D F" if ours == "down" else "F D",
      )
      for ours, theirs in names.items()
    ),
  ]


FAMILY = Family(
  name="llama",
  architectures=tuple(f"{name}{head}" for name in _KINDS for head in _HEADS),
  settings=_settings,
  config=_config,
  lines=_lines,
  known=_KNOWN,
)
