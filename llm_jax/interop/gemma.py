"""Gemma 1, 2 and 3 (its text model).

Gemma: arXiv:2403.08295; Gemma 2: arXiv:2408.00118, section 2; Gemma 3:
arXiv:2503.19786, section 2. Sources of the defaults: the configuration classes
of transformers 5.23.
"""

from typing import Any, NamedTuple

from llm_jax.interop import decoder, family, heads, rotary
from llm_jax.interop.family import Family, Keys, Settings, Told

# What every Gemma is, in our settings.
_ALWAYS: Settings = {
  "activation": "geglu",
  "norm_from_one": True,
  "embed_scale": True,
}


class _Kind(NamedTuple):
  """In what a generation differs; defaults where a key is absent."""

  type: str  # model_type
  kv_heads: int
  length: int
  every: int = 0  # of so many layers the last sees everything; 0 = all do
  caps: tuple[float | None, float | None] = (None, None)  # attention's, logits'
  qk_norm: bool = False
  theta: float = 10_000.0


_KINDS = {
  "Gemma": _Kind("gemma", 16, 8192),
  "Gemma2": _Kind("gemma2", 4, 8192, 2, (50.0, 30.0)),
  "Gemma3": _Kind("gemma3_text", 4, 131_072, 6, qk_norm=True, theta=1e6),
}
_NAMES = {
  **{f"{name}ForCausalLM": name for name in _KINDS},
  # Gemma3Model is one that sees pictures, too.
  **{"GemmaModel": "Gemma", "Gemma2Model": "Gemma2"},
  "Gemma3TextModel": "Gemma3",
}
_HEADS = {
  **heads.named(("Gemma", "Gemma2"), decoder.TEXT, decoder.TOKEN),
  **heads.named(
    ("Gemma3",),
    decoder.TEXT._replace(end="TextForSequenceClassification"),
  ),
}


def _settings(keys: Keys) -> Settings:
  name = keys.architecture
  kind = _KINDS[_NAMES.get(name) or heads.stem(FAMILY, name)]
  out = _ALWAYS | decoder.settings(
    keys,
    kv_heads=kind.kv_heads,
    head_dim=256,
    length=kind.length,
    tied=True,
    biases=("attention_bias",),
  )
  keys.must("use_bidirectional_attention", False)
  keys.skip("cache_implementation")
  tanh = ("gelu_pytorch_tanh", "gelu_new")
  if kind.type == "gemma":  # whose released files say gelu, and mean tanh's
    keys.must("hidden_act", *tanh, "gelu")
    keys.must("hidden_activation", *tanh, "gelu")
    return out | rotary.read(keys, kind.theta, out["max_length"])
  keys.must("hidden_activation", *tanh)
  keys.skip("hidden_act", "sliding_window_size")  # names of before
  scale = keys.get("query_pre_attn_scalar", 256.0)
  if scale <= 0:
    keys.must("query_pre_attn_scalar", 256.0)
  caps = ("attn_logit_softcapping", "final_logit_softcapping")
  attention, logits = map(keys.nullable, caps, kind.caps)
  out |= {
    "norm_at": "both",
    "qk_norm": kind.qk_norm,
    "attention_scale": None if scale == out["head_dim"] else scale**-0.5,
    "attention_softcap": attention,
    "logit_softcap": logits,
  }
  every = kind.every
  if kind.type == "gemma3_text":
    every = keys.get("sliding_window_pattern", every)
    if not every:
      keys.must("sliding_window_pattern", kind.every)
  types = [
    "sliding_attention" if (i + 1) % every else "full_attention"
    for i in range(out["num_layers"])
  ]
  types = keys.get("layer_types", types)
  window = keys.nullable("sliding_window", 4096)
  out |= decoder.windows(keys, window, types)
  if kind.type != "gemma3_text":
    return out | rotary.read(keys, kind.theta, out["max_length"])
  return out | rotary.by_layers(
    keys,
    ("rope_theta", kind.theta),
    ("rope_local_base_freq", 10_000.0),
    out["max_length"],
    out["window"],
  )


_KNOWN = (
  *decoder.KNOWN,
  *("attention_scale", "attention_softcap", "logit_softcap", "window_theta"),
)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s = Told(settings, "Gemma's")
  s.must(**{name: (value,) for name, value in _ALWAYS.items()})
  s.must(qk_norm_over=("head", None), mlp_bias=(False, None))
  name = "Gemma"
  if s.get("norm_at", "input") != "input":
    s.must(norm_at=("both",))
    name = "Gemma3" if s.get("qk_norm", False) else "Gemma2"
  kind = _KINDS[name]
  out = {
    "architectures": [f"{name}ForCausalLM"],
    "model_type": kind.type,
    "attention_bias": decoder.attention_bias(s),
    **decoder.config(settings, s),
  }
  act = "gelu_pytorch_tanh"
  if name == "Gemma":
    s.must(qk_norm=(False, None), window=(None,), window_theta=(None,))
    s.must(attention_scale=(None,), attention_softcap=(None,))
    s.must(logit_softcap=(None,))
    return out | {"hidden_act": act, **rotary.config(settings)}
  out |= {
    "hidden_activation": act,
    "query_pre_attn_scalar": _scalar(settings, out["head_dim"]),
    "attn_logit_softcapping": settings.get("attention_softcap"),
    "final_logit_softcapping": settings.get("logit_softcap"),
    "layer_types": decoder.layer_types(settings),
  }
  if window := settings.get("window"):
    out["sliding_window"] = window
  if name == "Gemma2":
    s.must(window_theta=(None,))
    return out | rotary.config(settings)
  return out | rotary.config_by_layers(settings)


def _scalar(settings: Settings, head_dim: int) -> int:
  """1 / scale^2, a whole number to them; ValueError where it is none."""
  scale = settings.get("attention_scale")
  if scale is None:
    return head_dim
  found = round(scale**-2)
  if abs(found**-0.5 - scale) > 1e-12 * scale:
    raise ValueError(
      f"--model.attention_scale={scale}: that of a Gemma is 1 / sqrt of a whole"
      " number"
    )
  return found


FAMILY = Family(
  name="gemma",
  architectures=tuple(_NAMES),
  settings=_settings,
  config=_config,
  lines=decoder.lines,
  known=_KNOWN,
  heads=_HEADS,
)
