"""What a config.json says, in the words of several years, and what is refused.

The keys are those that published folders have; the sizes are made small.
"""

import dataclasses

import pytest

from llm_jax import exporting, importing
from llm_jax.interop import families
from llm_jax.interop.family import Keys
from llm_jax.models.config import TransformerConfig

_SIZES = {
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 7,
  "num_attention_heads": 4,
  "vocab_size": 48,
}
# Keys as in the folders of Gemma 2 2B, Gemma 3 1B, Phi-3 mini 4k, Qwen2.5 with
# YaRN, OLMo 2, RoBERTa and ModernBERT, and what they mean.
OLDER = {
  "Gemma2ForCausalLM": (
    {
      "attn_logit_softcapping": 50.0,
      "cache_implementation": "hybrid",
      "final_logit_softcapping": 30.0,
      "head_dim": 256,
      "hidden_act": "gelu_pytorch_tanh",
      "hidden_activation": "gelu_pytorch_tanh",
      "query_pre_attn_scalar": 256,
      "rope_theta": 10000.0,
      "sliding_window": 4096,
    },
    {
      "attention_scale": None,
      "attention_softcap": 50.0,
      "full_layers": (1, 3, 5),
      "window": 4096,
      "tied": True,
    },
  ),
  "Gemma3ForCausalLM": (
    {
      "attn_logit_softcapping": None,
      "final_logit_softcapping": None,
      "hidden_activation": "gelu_pytorch_tanh",
      "query_pre_attn_scalar": 168,
      "rope_local_base_freq": 10000,
      "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
      "rope_theta": 1000000,
      "sliding_window": 512,
      "sliding_window_pattern": 6,
    },
    {
      "attention_scale": 168**-0.5,
      "full_layers": (5,),
      "rope_scaling": {"kind": "linear", "factor": 8.0},
      "rope_theta": 1e6,
      "window": 512,
      "window_theta": 1e4,
    },
  ),
  "Phi3ForCausalLM": (
    {
      "embd_pdrop": 0.0,
      "original_max_position_embeddings": 4096,
      "resid_pdrop": 0.0,
      "rope_scaling": None,
      "sliding_window": 2047,
    },
    {"window": 2047, "max_length": 4096, "tied": False},
  ),
  "Qwen2ForCausalLM": (
    {
      "max_window_layers": 3,
      "rope_scaling": {
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "type": "yarn",
      },
      "sliding_window": 4096,
      "use_sliding_window": True,
    },
    {
      "full_layers": (0, 1, 2),
      "rope_scaling": {
        "kind": "yarn",
        "factor": 4.0,
        "low_factor": 1.0,
        "high_factor": 32.0,
        "original_length": 32768,
      },
    },
  ),
  "Olmo2ForCausalLM": (
    {"attention_bias": False, "rope_scaling": None, "rope_theta": 500000},
    {"norm_eps": 1e-5, "norm_at": "output", "rope_theta": 5e5},
  ),
  "RobertaForMaskedLM": (
    {
      "max_position_embeddings": 514,
      "pad_token_id": 1,
      "position_embedding_type": "absolute",
      "type_vocab_size": 1,
    },
    {"max_length": 512, "position_offset": 2, "token_types": 1},
  ),
  "ModernBertForMaskedLM": (
    {
      "global_attn_every_n_layers": 3,
      "global_rope_theta": 160000.0,
      "layer_norm_eps": 1e-5,
      "local_attention": 128,
      "local_rope_theta": 10000.0,
      "position_embedding_type": "absolute",
      "reference_compile": True,
      "repad_logits_with_grad": False,
    },
    {"full_layers": (0, 3, 6), "rope_theta": 1.6e5, "window_theta": 1e4},
  ),
}


class _Folder:
  """What `families` asks of one."""

  def __init__(self, architecture, config):
    self.architecture, self.given = architecture, "--init_from=hf:x"
    self.config = {"architectures": [architecture], **_SIZES, **config}


@pytest.mark.parametrize("architecture", OLDER)
def test_older_words_mean_the_same(architecture):
  config, want = OLDER[architecture]
  folder = _Folder(architecture, config)
  found = families.settings(folder)
  assert {name: found[name] for name in want} == want
  shape = importing._as_settings(found, "hf:x")
  family, said = exporting.described(
    exporting.settings_of(shape), (families.of(folder),)
  )
  again = family.settings(Keys(said, "again"))
  assert importing._as_settings(again, "hf:x") == shape


_YARN = {"type": "yarn", "factor": 4.0}
_LONGROPE = {"type": "longrope", "short_factor": [1.0], "long_factor": [4.5]}


def test_a_kind_may_be_told_twice():
  """As folders of transformers 4 have it, in its old name and in its new."""
  for twice in (
    {"rope_scaling": _YARN | {"rope_type": "yarn"}},
    {"rope_scaling": _YARN | {"rope_type": None}},
  ):
    found = families.settings(_Folder("LlamaForCausalLM", twice))
    assert found["rope_scaling"]["kind"] == "yarn"
  sizes = {"max_position_embeddings": 64, "rope_theta": 1e4}
  said = _LONGROPE | {"type": "su", "original_max_position_embeddings": 16}
  config = sizes | {"rope_scaling": said | {"rope_type": "longrope"}}
  found = families.settings(_Folder("Phi3ForCausalLM", config))
  assert found["rope_scaling"]["kind"] == "longrope"


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_longrope_of_part_of_a_head_means_the_same(kind):
  """Keys as in the folders of Phi-4-mini and Phi-3 mini 128k."""
  config = {
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.5,
    "rope_scaling": _LONGROPE | {"type": kind},
    "rope_theta": 10000.0,
  }
  folder = _Folder("Phi3ForCausalLM", config)
  shape = importing._as_settings(families.settings(folder), "hf:x")
  scaling = shape.rope_scaling
  assert (shape.rope_dim, shape.rotated, scaling.kind) == (2, 2, "longrope")
  assert (scaling.factor, scaling.original_length) == (32.0, 4096)
  assert (scaling.short_factors, scaling.long_factors) == ((1.0,), (4.5,))
  family, said = exporting.described(
    exporting.settings_of(shape), (families.of(folder),)
  )
  again = family.settings(Keys(said, "again"))
  assert importing._as_settings(again, "hf:x") == shape
  # A shorter context is the experiment's to choose, and with it the factors.
  own = dataclasses.replace(shape, max_length=2048)
  assert importing.adopted(shape, own, ("max_length",), "hf:x") == own
  with pytest.raises(ValueError, match="max_length=200000"):
    own = dataclasses.replace(shape, max_length=200_000)
    importing.adopted(shape, own, ("max_length",), "hf:x")


REFUSED = {
  "two kinds": (
    "LlamaForCausalLM",
    {"rope_scaling": _YARN | {"rope_type": "linear"}},
    "rope_type='linear' and type='yarn' among its rotary settings",
  ),
  "sharper": (
    "Qwen2ForCausalLM",
    {"rope_scaling": _YARN | {"attention_factor": 1.5}},
    "attention_factor=1.5",
  ),
  "without a factor": (
    "LlamaForCausalLM",
    {"rope_scaling": {"type": "linear"}},
    "rope_type='linear' without factor",
  ),
  "part of a head": (
    "LlamaForCausalLM",
    {"partial_rotary_factor": 0.75},
    "partial_rotary_factor=0.75",
  ),
  "no dims of a head": (
    "Phi3ForCausalLM",
    {"partial_rotary_factor": 0.01},
    "partial_rotary_factor=0.01; of 4 dims it is none",
  ),
  "more than a head": (
    "Phi3ForCausalLM",
    {"partial_rotary_factor": 1.5},
    "partial_rotary_factor=1.5",
  ),
  "longrope": (
    "Phi3ForCausalLM",
    {"rope_scaling": {"type": "longrope", "long_factor": [1.0]}},
    "rope_type='longrope' without short_factor",
  ),
  "longrope of another length": (
    "LlamaForCausalLM",
    {"rope_scaling": _LONGROPE | {"original_max_position_embeddings": 1}},
    "rope_type='longrope' without original_max_position_embeddings",
  ),
  "dynamic": (
    "LlamaForCausalLM",
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "rope_type='dynamic', which changes with the length of what is read",
  ),
  "unheard of": (
    "LlamaForCausalLM",
    {"rope_scaling": {"type": "proportional", "factor": 2.0}},
    "known are default, linear, llama3, longrope and yarn",
  ),
  "a decoder": ("BertForMaskedLM", {"is_decoder": True}, "is_decoder=True"),
  "both ways": (
    "Gemma3ForCausalLM",
    {"use_bidirectional_attention": True},
    "use_bidirectional_attention=True",
  ),
  "stretched windows": (
    "Gemma3ForCausalLM",
    {"rope_parameters": {"sliding_attention": _YARN | {"rope_theta": 10.0}}},
    "in layers with a window",
  ),
  "chunks": (
    "Gemma2ForCausalLM",
    {"layer_types": ["chunked_attention"] * 7},
    "chunked_attention",
  ),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_is_not_known_is_refused_by_name(wrong):
  architecture, config, expected = REFUSED[wrong]
  with pytest.raises(ValueError, match="^--init_from=hf:x: ") as told:
    families.settings(_Folder(architecture, config))
  assert expected in str(told.value)
  assert "\n" not in str(told.value)


@pytest.mark.parametrize(
  "name,near",
  [
    ("Mamba2ForCausalLM", "ForCausalLM"),
    ("LlamaForMaskedLM", "Llama"),
    ("BertForNextSentencePrediction", "BertFor"),
    ("x" * 500, ""),
    ("", ""),
  ],
)
def test_an_unknown_architecture_is_told_shortly(name, near):
  with pytest.raises(ValueError) as told:
    families.of(_Folder(name, {}))
  said = str(told.value)
  assert len(said) < 400 and "known are those of Llama, " in said
  before = said.partition("; known")[0].partition("; nearest are ")[2]
  found = before.split(", ") if before else []
  assert bool(found) == bool(near) and all(near in one for one in found)


def test_a_model_of_no_family_is_told_shortly():
  """Families that refuse the same are named together."""
  shape = TransformerConfig(
    sees="all", norm="rms", token_types=2, vocab_size=48, positions="rope"
  )
  with pytest.raises(ValueError) as told:
    exporting.described(exporting.settings_of(shape))
  said = str(told.value)
  assert len(said) < 400 and "\n" not in said
  assert "bert" in said and "llama" in said and "--model.sees=all" in said
  (own,) = [f for f in families.FAMILIES if f.name == "bert"][:1]
  with pytest.raises(ValueError, match=r"bert: --model\.\w+=\S+: \w+"):
    exporting.described(exporting.settings_of(shape), (own,))
