"""OLMo 2, whose blocks normalise what they say. arXiv:2501.00656, section 3.2.

Sources of the defaults: the configuration class of transformers 5.23.
"""

from typing import Any

from llm_jax.interop import decoder, family, heads, rotary
from llm_jax.interop.family import Family, Keys, Settings, Told

# What every OLMo 2 is, in our settings.
_ALWAYS: Settings = {
  "activation": "swiglu",
  "norm_at": "output",
  "qk_norm": True,
  "qk_norm_over": "all",
}


def _settings(keys: Keys) -> Settings:
  keys.must("hidden_act", "silu", "swish")
  out = _ALWAYS | decoder.settings(keys, eps=1e-5, biases=("attention_bias",))
  return out | rotary.read(keys, length=out["max_length"])


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, decoder.KNOWN)
  s = Told(settings, "OLMo 2's")
  s.must(**{name: (value,) for name, value in _ALWAYS.items()})
  s.must(norm_from_one=(False, None), embed_scale=(False, None))
  s.must(window=(None,), full_layers=((), None), mlp_bias=(False, None))
  return {
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "hidden_act": "silu",
    "attention_bias": decoder.attention_bias(s),
    **decoder.config(settings, s),
    **rotary.config(settings),
  }


FAMILY = Family(
  name="olmo2",
  architectures=tuple(f"Olmo2{end}" for end in decoder.ENDS),
  settings=_settings,
  config=_config,
  lines=decoder.lines,
  known=decoder.KNOWN,
  heads=heads.named(("Olmo2",), decoder.TEXT),
)
