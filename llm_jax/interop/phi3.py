"""Phi-3: Llama's block, with tensors of several maps. arXiv:2404.14219.

Sources of the defaults: the configuration class of transformers 5.23.
"""

import functools
from typing import Any

from llm_jax.interop import decoder, family, heads, rotary
from llm_jax.interop.family import Family, Keys, Settings, Told


def _settings(keys: Keys) -> Settings:
  keys.must("hidden_act", "silu", "swish")
  # Of training; and of longrope, which is refused.
  keys.skip("resid_pdrop", "embd_pdrop", "original_max_position_embeddings")
  out = decoder.settings(keys, eps=1e-5, length=4096)
  out |= {
    "activation": "swiglu",
    "window": keys.nullable("sliding_window", None),
  }
  return out | rotary.read(keys)


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, decoder.KNOWN)
  s = Told(settings, "Phi-3's")
  s.must(norm_at=("input", None), norm_from_one=(False, None))
  s.must(embed_scale=(False, None), activation=("swiglu", None))
  s.must(qk_norm=(False, None), qk_norm_over=("head", None))
  s.must(full_layers=((), None), mlp_bias=(False, None))
  s.must(qkv_bias=(False, None), out_bias=(False, None))
  scaling = settings.get("rope_scaling") or {"factor": 1.0}
  if scaling["factor"] != 1.0:
    raise ValueError(
      f"--model.rope_scaling.factor={scaling['factor']}: a Phi-3 has longrope"
      " or none"
    )
  return {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_act": "silu",
    "sliding_window": settings.get("window"),
    **decoder.config(settings, s),
    **rotary.config(settings),
  }


FAMILY = Family(
  name="phi3",
  architectures=tuple(f"Phi3{end}" for end in decoder.ENDS),
  settings=_settings,
  config=_config,
  lines=functools.partial(decoder.lines, fused=True),
  known=decoder.KNOWN,
  heads=heads.named(("Phi3",), decoder.TEXT, decoder.TOKEN),
)
