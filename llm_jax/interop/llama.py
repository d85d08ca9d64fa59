"""Llama 2 and 3.x, Mistral, Mixtral, Qwen 2, Qwen 2.5, Qwen 3 and its MoE.

They share names and block; each has a few settings of its own. Sources of the
defaults: the configuration classes of transformers 5.23.
"""

from typing import Any, NamedTuple

from llm_jax.interop import decoder, family, heads, rotary
from llm_jax.interop.family import Family, Keys, Settings, Told
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


def _settings(keys: Keys) -> Settings:
  kind = _KINDS[heads.stem(FAMILY, keys.architecture)]
  keys.must("hidden_act", "silu", "swish")
  out = decoder.settings(
    keys,
    kv_heads=kind.kv_heads,
    head_dim=kind.head_dim,
    eps=kind.eps,
    length=kind.length,
    biases=kind.biases,
  )
  out |= {"activation": "swiglu", "qk_norm": kind.qk_norm}
  out.setdefault("qkv_bias", kind.qkv_bias)
  out |= _windows(keys, kind)
  out |= rotary.read(keys, kind.theta, out["max_length"])
  if kind.experts:
    out |= _experts(keys, kind)
  return out


def _windows(keys: Keys, kind: _Kind) -> Settings:
  """Which layers have a window."""
  if not kind.type.startswith("qwen"):
    if kind.window is None and "sliding_window" not in keys.config:
      return {"window": None}
    return {"window": keys.nullable("sliding_window", kind.window)}
  window = keys.get("sliding_window", 4096)
  used = keys.get("use_sliding_window", False)
  layers, first = keys.need("num_hidden_layers"), 0
  if kind.type != "qwen3_moe":
    first = keys.get("max_window_layers", 28)
  else:
    keys.skip("max_window_layers")
  types = ["full_attention"] * min(first, layers)
  types += ["sliding_attention"] * (layers - len(types))
  if not used:
    types = ["full_attention"] * layers
  types = keys.get("layer_types", types)
  if not used and "sliding_attention" in types:
    keys.must("layer_types", ["full_attention"] * layers)
  return decoder.windows(keys, window, types)


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


_KNOWN = (*decoder.KNOWN, "experts")


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s = Told(settings, "Llama's")
  s.must(norm_at=("input", None), norm_from_one=(False, None))
  s.must(embed_scale=(False, None), qk_norm_over=("head", None))
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
  if not kind.type.startswith("qwen"):
    s.must(full_layers=((), None))
  both = "attention_bias" in kind.biases
  s.must(mlp_bias=(mlp_bias and "mlp_bias" in kind.biases, None))
  s.must(out_bias=(qkv if both else False, None))
  s.must(qkv_bias=(qkv if both else kind.qkv_bias, None))
  out = {
    "architectures": [f"{name}ForCausalLM"],
    "model_type": kind.type,
    "hidden_act": "silu",
    **decoder.config(settings, s),
    **rotary.config(settings),
  }
  biases = {"attention_bias": qkv, "mlp_bias": mlp_bias}
  out |= {key: biases[key] for key in kind.biases}
  if kind.type.startswith("qwen"):
    out |= {"use_sliding_window": bool(window), "sliding_window": window}
    out["max_window_layers"] = 0 if window else settings["num_layers"]
    if s.get("full_layers", ()):
      out["layer_types"] = decoder.layer_types(settings)
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


def _lines(settings: Settings) -> list[Line]:
  out = decoder.lines(settings)
  if (settings.get("experts") or {}).get("num", 0):
    out += _expert_lines("model.layers.{layer}.", settings.get("qk_norm"))
  return out


def _expert_lines(layer: str, qwen: bool | None) -> list[Line]:
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
  architectures=tuple(
    f"{name}{end}" for name in _KINDS for end in decoder.ENDS
  ),
  settings=_settings,
  config=_config,
  lines=_lines,
  known=_KNOWN,
  heads={
    **heads.named(tuple(_KINDS), decoder.TEXT, decoder.TOKEN),
    **heads.named(("Mistral", "Mixtral"), decoder.SPAN),
    **heads.named(
      ("Llama", "Qwen2", "Qwen3", "Qwen3Moe"),
      decoder.SPAN._replace(root="transformer."),
    ),
  },
)
