"""Phi-3 and Phi-4-mini: Llama's block, with tensors of several maps.

arXiv:2404.14219. Positions may be stretched by LongRoPE, and only a part of
each head rotated.

Sources of the defaults: the configuration class of transformers 5.23.
"""

import functools
from typing import Any

from llm_jax.interop import decoder, family, heads, rotary
from llm_jax.interop.family import Family, Keys, Settings, Told

_KNOWN = (*decoder.KNOWN, "rope_dim")


def _settings(keys: Keys) -> Settings:
  keys.must("hidden_act", "silu", "swish")
  keys.skip("resid_pdrop", "embd_pdrop")  # of training
  out = decoder.settings(keys, eps=1e-5, length=4096)
  out |= {
    "activation": "swiglu",
    "window": keys.nullable("sliding_window", None),
  }
  return out | rotary.read(
    keys,
    length=out["max_length"],
    head_dim=out["head_dim"],
    original=keys.get("original_max_position_embeddings", 4096),
  )


def _config(settings: Settings) -> dict[str, Any]:
  family.only(settings, _KNOWN)
  s = Told(settings, "Phi-3's")
  s.must(norm_at=("input", None), norm_from_one=(False, None))
  s.must(embed_scale=(False, None), activation=("swiglu", None))
  s.must(qk_norm=(False, None), qk_norm_over=("head", None))
  s.must(full_layers=((), None), mlp_bias=(False, None))
  s.must(qkv_bias=(False, None), out_bias=(False, None))
  scaling = settings.get("rope_scaling") or {"factor": 1.0}
  its = scaling.get("kind", "llama3")
  if scaling["factor"] != 1.0 and its != "longrope":
    raise ValueError(
      f"--model.rope_scaling.kind={its}: a Phi-3 has longrope or none"
    )
  out = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "hidden_act": "silu",
    "sliding_window": settings.get("window"),
    **decoder.config(settings, s),
    **rotary.config(settings),
  }
  share = rotary.part(settings)
  if share != 1:
    out["partial_rotary_factor"] = share
    out["rope_parameters"]["partial_rotary_factor"] = share
  if its == "longrope":
    original = scaling["original_length"]
    out["original_max_position_embeddings"] = original
  return out


FAMILY = Family(
  name="phi3",
  architectures=tuple(f"Phi3{end}" for end in decoder.ENDS),
  settings=_settings,
  config=_config,
  lines=functools.partial(decoder.lines, fused=True),
  known=_KNOWN,
  heads=heads.named(("Phi3",), decoder.TEXT, decoder.TOKEN),
)
