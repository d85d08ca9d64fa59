"""Makes families/NAME.npz: what transformers says of tiny random models.

  python tests/goldens/families.py [NAME ...]

in an environment with torch 2.13 and transformers 5.23. Weights are drawn by
numpy from tensor names (`tests/interop/tiny.py`), so that a test makes the same
folder again. All is float64: what transformers keeps in float32 inside (rotary
tables, norms, softmax, routers) is made float64, too. Attention is the eager
kind. Each file holds config.json, [(name, shape)], ids with their mask, logits,
hidden states before each layer and after the last one's norm, and 20 tokens of
greedy continuation of the first row, of those that see no later ones; kinds of
tokens where there are several.
"""

import copy
import json
import pathlib
import sys
import tempfile

import numpy as np
from safetensors import safe_open
import torch
from torch.utils._device import _device_constructors
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.interop import tiny

_SMALL = dict(
  vocab_size=48,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=3,
  num_attention_heads=4,
  max_position_embeddings=64,
  bos_token_id=1,
  eos_token_id=2,
)
_LLAMA3 = dict(
  rope_type="llama3",
  rope_theta=500.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=16,
)
_BERT = dict(
  vocab_size=48,
  hidden_size=16,
  intermediate_size=24,
  num_hidden_layers=3,
  num_attention_heads=4,
  max_position_embeddings=32,
)
# Of rows longer than the original length the long factors, else the short ones.
_LONGROPE = dict(
  rope_type="longrope",
  rope_theta=100.0,
  partial_rotary_factor=0.75,
  short_factor=[1.0, 1.25, 1.5],
  long_factor=[1.5, 3.0, 6.0],
)
_PHI_LONG = _SMALL | dict(
  hidden_size=32,
  num_key_value_heads=2,
  pad_token_id=0,
  original_max_position_embeddings=64,
  rope_parameters=_LONGROPE,
)
# Name -> (class of the model, its settings).
CASES = {
  "llama2": ("LlamaForCausalLM", _SMALL),
  "llama3": (
    "LlamaForCausalLM",
    _SMALL
    | dict(
      num_key_value_heads=2,
      tie_word_embeddings=True,
      rope_parameters=_LLAMA3,
    ),
  ),
  "llama_mqa": (
    "LlamaForCausalLM",
    _SMALL
    | dict(
      num_key_value_heads=1,
      head_dim=6,
      attention_bias=True,
      mlp_bias=True,
      rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=4.0),
    ),
  ),
  "mistral": (
    "MistralForCausalLM",
    _SMALL | dict(num_key_value_heads=2, head_dim=8, sliding_window=4),
  ),
  "mixtral": (
    "MixtralForCausalLM",
    _SMALL | dict(num_key_value_heads=2, num_local_experts=4),
  ),
  "qwen2": (
    "Qwen2ForCausalLM",
    _SMALL | dict(num_key_value_heads=2, tie_word_embeddings=True),
  ),
  "qwen3": (
    "Qwen3ForCausalLM",
    _SMALL | dict(num_key_value_heads=2, head_dim=8),
  ),
  "qwen3_moe": (
    "Qwen3MoeForCausalLM",
    _SMALL
    | dict(
      num_key_value_heads=2,
      head_dim=8,
      moe_intermediate_size=12,
      num_experts=4,
      num_experts_per_tok=2,
      norm_topk_prob=False,
    ),
  ),
  "qwen2_yarn": (
    "Qwen2ForCausalLM",
    _SMALL
    | dict(
      num_key_value_heads=2,
      use_sliding_window=True,
      sliding_window=5,
      max_window_layers=1,
      rope_parameters=dict(
        rope_type="yarn",
        rope_theta=100.0,
        factor=4.0,
        original_max_position_embeddings=16,
      ),
    ),
  ),
  "gemma": (
    "GemmaForCausalLM",
    _SMALL | dict(num_key_value_heads=1, head_dim=8),
  ),
  "gemma2": (
    "Gemma2ForCausalLM",
    _SMALL
    | dict(
      num_key_value_heads=2,
      head_dim=6,
      sliding_window=4,
      query_pre_attn_scalar=9,
      attn_logit_softcapping=2.0,
      final_logit_softcapping=3.0,
    ),
  ),
  "gemma3": (
    "Gemma3ForCausalLM",
    _SMALL
    | dict(
      num_key_value_heads=2,
      head_dim=8,
      sliding_window=4,
      query_pre_attn_scalar=50,
      layer_types=["sliding_attention", "full_attention", "sliding_attention"],
      rope_parameters=dict(
        full_attention=dict(rope_type="linear", rope_theta=1000.0, factor=8.0),
        sliding_attention=dict(rope_type="default", rope_theta=100.0),
      ),
    ),
  ),
  "olmo2": (
    "Olmo2ForCausalLM",
    _SMALL | dict(num_key_value_heads=2, pad_token_id=0),
  ),
  "phi3": (
    "Phi3ForCausalLM",
    _SMALL | dict(num_key_value_heads=2, sliding_window=5, pad_token_id=0),
  ),
  "phi3_long": (
    "Phi3ForCausalLM",
    _PHI_LONG | dict(original_max_position_embeddings=8),
  ),
  "phi3_short": (
    "Phi3ForCausalLM",
    _PHI_LONG | dict(rope_parameters=_LONGROPE | dict(factor=4.0)),
  ),
  "bert": ("BertForMaskedLM", _BERT),
  "roberta": ("RobertaForMaskedLM", _BERT | dict(type_vocab_size=1)),
  "modernbert": (
    "ModernBertForMaskedLM",
    _BERT
    | dict(
      local_attention=4,
      pad_token_id=0,
      rope_parameters=dict(
        full_attention=dict(rope_type="default", rope_theta=500.0),
        sliding_attention=dict(rope_type="default", rope_theta=20.0),
      ),
    ),
  ),
  "gpt2": (
    "GPT2LMHeadModel",
    dict(
      vocab_size=48,
      n_embd=16,
      n_layer=3,
      n_head=4,
      n_positions=64,
      bos_token_id=1,
      eos_token_id=2,
    ),
  ),
}


def widen():
  """From here on, what says float32 means float64."""
  torch.set_num_threads(1)
  torch.set_default_dtype(torch.float64)
  softmax, to = torch.nn.functional.softmax, torch.Tensor.to
  arange = torch.arange
  _device_constructors()  # are listed while they are torch's own
  wide = lambda x: torch.float64 if x in (torch.float32,) else x

  def wide_softmax(*args, dtype=None, **named):
    return softmax(*args, dtype=wide(dtype), **named)

  def wide_to(self, *args, **named):
    named = {k: wide(v) for k, v in named.items()}
    return to(self, *(wide(a) for a in args), **named)

  def wide_arange(*args, dtype=None, **named):
    return arange(*args, dtype=wide(dtype), **named)

  torch.arange = wide_arange
  torch.nn.functional.softmax = torch.softmax = wide_softmax
  torch.Tensor.to = wide_to
  torch.Tensor.float = torch.Tensor.double


def model(kind, settings):
  """A model in float64 whose weights are drawn from the names of its file."""
  made = getattr(transformers, kind)
  config = made.config_class(**copy.deepcopy(settings))
  config.dtype = "float64"
  config._attn_implementation = "eager"
  net = made(config).double()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    net.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "numpy") as f:
      tensors = [(n, tuple(f.get_slice(n).get_shape())) for n in f.keys()]
    said = json.loads((folder / "config.json").read_text())
    tiny.write(folder, said, tensors)
    net, info = made.from_pretrained(
      folder,
      dtype=torch.float64,
      attn_implementation="eager",
      **(
        {"experts_implementation": "eager"}
        if "oe" in kind or "ixt" in kind
        else {}
      ),
      output_loading_info=True,
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
  return net.eval(), said, tensors


def golden(kind, settings):
  """What is stored of a case."""
  net, said, tensors = model(kind, settings)
  rng = np.random.default_rng(7)
  ids_BT = rng.integers(3, 48, (3, 12))
  mask_BT = np.ones_like(ids_BT)
  mask_BT[1, 9:] = 0  # padding on the right
  mask_BT[2, :4] = 0  # padding on the left
  place_BT = np.maximum(mask_BT.cumsum(1) - 1, 0)
  tensor, more = torch.from_numpy, {}
  masked = kind.endswith("ForMaskedLM")
  if said.get("type_vocab_size", 1) > 1:
    more["type_BT"] = rng.integers(0, said["type_vocab_size"], ids_BT.shape)
  if kind.startswith("Roberta"):  # whose first positions are not used
    place_BT = place_BT + said["pad_token_id"] + 1
  with torch.no_grad():
    out = net(
      tensor(ids_BT),
      attention_mask=tensor(mask_BT),
      position_ids=tensor(place_BT),
      output_hidden_states=True,
      **({"token_type_ids": tensor(more["type_BT"])} if more else {}),
    )
    row, prompt = ids_BT[:1], ids_BT.shape[1]
    for _ in range(0 if masked else 20):
      logits = net(tensor(row)).logits
      row = np.append(row, [[int(logits[0, -1].argmax())]], 1)
  assert out.logits.dtype == torch.float64
  return dict(
    config=json.dumps(said),
    tensors=json.dumps(tensors),
    ids_BT=ids_BT,
    mask_BT=mask_BT,
    logits_BTV=out.logits.numpy(),
    hidden_LBTD=np.stack([x.numpy() for x in out.hidden_states]),
    greedy_T=row[0, prompt:],
    **more,
  )


def main(names):
  widen()
  tiny.GOLDENS.mkdir(exist_ok=True)
  for name in names or CASES:
    np.savez_compressed(tiny.GOLDENS / f"{name}.npz", **golden(*CASES[name]))
    size = (tiny.GOLDENS / f"{name}.npz").stat().st_size
    print(f"{name}: {size} bytes")


if __name__ == "__main__":
  main(sys.argv[1:])
