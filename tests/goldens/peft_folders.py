"""Makes peft/NAME.npz: what the `peft` library says of tiny random adapters.

  python tests/goldens/peft_folders.py [NAME ...]

in an environment with torch 2.13, transformers 5.23 and peft 0.21.2. Bases are
those of `families.py`; the adapters' numbers are drawn by numpy from tensor
names (`tests/interop/tiny.py`). All is float64. Each file holds
adapter_config.json, [(name, shape)] of adapter_model.safetensors, and logits of
the base's golden ids, whole rows.
"""

import json
import pathlib
import sys
import tempfile
import warnings

import numpy as np
import peft
from safetensors import safe_open
from safetensors.numpy import save_file
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.goldens import families
from tests.interop import tiny

_LLAMA = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
_GPT2 = ["c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
_BERT = ["query", "value", "attention.output.dense", "intermediate.dense"]
_PHI3 = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
_FED = {
  "target_modules": ["k_proj", "v_proj", "down_proj"],
  "feedforward_modules": ["down_proj"],
}


def _lora(targets, **more):
  return peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, **more)


# Name -> (golden of the base, the library's settings).
CASES = {
  "llama_lora": ("llama3", lambda: _lora(_LLAMA)),
  "llama_rslora": ("llama3", lambda: _lora(_LLAMA, use_rslora=True)),
  "llama_dora": ("llama3", lambda: _lora(_LLAMA, use_dora=True)),
  "llama_ia3": ("llama3", lambda: peft.IA3Config(**_FED)),
  "llama_prompt": (
    "llama3",
    lambda: peft.PromptTuningConfig(
      task_type="CAUSAL_LM", num_virtual_tokens=4
    ),
  ),
  "llama_patterns": (
    "llama2",
    lambda: _lora(
      _LLAMA,
      rank_pattern={"mlp.up_proj": 2, "layers.0.self_attn.q_proj": 1},
      alpha_pattern={"o_proj": 7.0, "up_proj": 2},
      layers_to_transform=[0, 2],
      modules_to_save=["lm_head"],
    ),
  ),
  "qwen3_lora": ("qwen3", lambda: _lora("all-linear")),
  "qwen3_rslora": ("qwen3", lambda: _lora("all-linear", use_rslora=True)),
  "qwen3_dora": ("qwen3", lambda: _lora("all-linear", use_dora=True)),
  "qwen3_ia3": ("qwen3", lambda: peft.IA3Config(**_FED)),
  "gpt2_lora": ("gpt2", lambda: _lora(_GPT2, fan_in_fan_out=True)),
  "gpt2_rslora": (
    "gpt2",
    lambda: _lora(_GPT2, fan_in_fan_out=True, use_rslora=True),
  ),
  "gpt2_dora": (
    "gpt2",
    lambda: _lora(_GPT2, fan_in_fan_out=True, use_dora=True),
  ),
  "gpt2_ia3": (
    "gpt2",
    lambda: peft.IA3Config(
      target_modules=["c_attn", "mlp.c_proj"],
      feedforward_modules=["mlp.c_proj"],
      fan_in_fan_out=True,
    ),
  ),
  "gpt2_prompt": (
    "gpt2",
    lambda: peft.PromptTuningConfig(
      task_type="CAUSAL_LM", num_virtual_tokens=4
    ),
  ),
  "phi3_lora": ("phi3", lambda: _lora(_PHI3)),
  "phi3_dora": ("phi3", lambda: _lora(_PHI3, use_dora=True)),
  "bert_lora": ("bert", lambda: _lora(_BERT)),
  "bert_rslora": ("bert", lambda: _lora(_BERT, use_rslora=True)),
  "bert_dora": ("bert", lambda: _lora(_BERT, use_dora=True)),
  "bert_ia3": (
    "bert",
    lambda: peft.IA3Config(
      target_modules=["key", "value", "0.output.dense", "1.output.dense"],
      feedforward_modules=["0.output.dense", "1.output.dense"],
    ),
  ),
}


def base(name, folder):
  """The base of a golden, from its folder."""
  golden = tiny.golden(name)
  tiny.write(folder, golden["config"], golden["tensors"])
  kind = golden["config"]["architectures"][0]
  net = getattr(transformers, kind).from_pretrained(
    folder, dtype=torch.float64, attn_implementation="eager"
  )
  return net.eval()


def logits(model, golden):
  """Of rows without padding: places are as the library counts them."""
  more = {}
  if "type_BT" in golden:
    more["token_type_ids"] = torch.from_numpy(golden["type_BT"])
  with torch.no_grad():
    ids = torch.from_numpy(golden["ids_BT"])
    return model(
      ids, attention_mask=torch.ones_like(ids), **more
    ).logits.numpy()


def golden(name):
  """What is stored of a case."""
  of, config = CASES[name]
  with tempfile.TemporaryDirectory() as there:
    there = pathlib.Path(there)
    made = peft.get_peft_model(base(of, there / "base"), config())
    made.save_pretrained(there / "made")
    file = there / "made" / "adapter_model.safetensors"
    with safe_open(file, "numpy") as f:
      tensors = [(n, tuple(f.get_slice(n).get_shape())) for n in f.keys()]
    save_file({n: tiny.adapter(n, s) for n, s in tensors}, file)
    # It writes the config anew on each save, so that is kept as it is.
    said = json.loads((there / "made" / "adapter_config.json").read_text())
    model = peft.PeftModel.from_pretrained(
      base(of, there / "base"), there / "made"
    )
    model = model.double().eval()
    out = logits(model, tiny.golden(of))
  assert out.dtype == np.float64
  said["base_model_name_or_path"] = None
  return dict(
    base=of,
    config=json.dumps(said),
    tensors=json.dumps(tensors),
    logits_BTV=out,
  )


def main(names):
  families.widen()
  warnings.filterwarnings("ignore")
  tiny.ADAPTERS.mkdir(exist_ok=True)
  for name in names or CASES:
    np.savez_compressed(tiny.ADAPTERS / f"{name}.npz", **golden(name))
    print(f"{name}: {(tiny.ADAPTERS / f'{name}.npz').stat().st_size} bytes")


if __name__ == "__main__":
  main(sys.argv[1:])
