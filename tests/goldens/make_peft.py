"""Loss and gradients of a tiny Llama and its adapters, in float64.

The model is `transformers`' and LoRA, DoRA and IA3 are `peft`'s. Needs torch,
transformers 5.23 and peft 0.21.2; run by hand, the arrays are kept beside it:

  python tests/goldens/make_peft.py
"""

import contextlib
import pathlib
import re
from unittest import mock

import numpy as np
import peft
import torch
import transformers

CONFIG = transformers.LlamaConfig(
  vocab_size=16,
  hidden_size=8,
  intermediate_size=12,
  num_hidden_layers=2,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=4,
  rms_norm_eps=1e-5,
  rope_theta=10_000.0,
  hidden_act="silu",
  tie_word_embeddings=False,
  attention_bias=False,
  mlp_bias=False,
  attn_implementation="eager",
)
ROWS, LENGTH, R = 2, 7, 3


def lora(**kwargs):
  """Settings of LoRA on every map of the blocks."""
  return peft.LoraConfig(
    r=R, lora_alpha=5, target_modules="all-linear", **kwargs
  )


ADAPTERS = {
  "lora": lora(),
  "stabilised": lora(use_rslora=True),
  "dora": lora(use_dora=True),
  # The library's own choice of maps for a Llama.
  "ia3": peft.IA3Config(task_type="CAUSAL_LM"),
}


@contextlib.contextmanager
def wide():
  """Float64 where `transformers` asks for float32: norms, angles, softmax."""
  with (
    mock.patch.object(torch, "float32", torch.float64),
    mock.patch.object(torch, "float", torch.float64),
    mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
  ):
    yield


def move(parameters, draw, size):
  """Adds a normal draw to each: ones stay about one, zeros do not stay."""
  with torch.no_grad():
    for p in parameters:
      p.add_(size * draw(*p.shape))


def stacked(arrays):
  """Name -> array, the layers' stacked where the name has ".layers.N."."""
  layers = {}
  for name, x in arrays.items():
    short = re.sub(r"^base_model\.model\.", "", name).removeprefix("model.")
    short = short.replace(".default", "").removesuffix(".weight")
    layers.setdefault(re.sub(r"^layers\.\d+\.", "layers.", short), []).append(x)
  return {
    name: np.stack(found) if name.startswith("layers.") else found[0]
    for name, found in layers.items()
  }


def measured(model, tokens):
  """Loss, the mean over all next tokens, and what is drawn and its gradient."""
  trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
  logits = model(tokens[:, :-1]).logits
  loss = torch.nn.functional.cross_entropy(
    logits.flatten(0, 1), tokens[:, 1:].flatten()
  )
  assert loss.dtype == torch.float64
  gradients = torch.autograd.grad(loss, list(trained.values()))
  out = {"loss": loss.detach().numpy()}
  for what, found in (("value", trained.values()), ("gradient", gradients)):
    arrays = [x.detach().numpy() for x in found]
    named = stacked(dict(zip(trained, arrays, strict=True)))
    out |= {f"{what}/{name}": x for name, x in named.items()}
  return out


def main():
  """Writes peft.npz."""
  torch.manual_seed(0)
  draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
  tokens = torch.randint(CONFIG.vocab_size, (ROWS, LENGTH))
  out = {"tokens": tokens.numpy()}
  with wide():
    base = transformers.LlamaForCausalLM(CONFIG).double().eval()
    move(base.parameters(), draw, 0.3)
    parts = {"base": measured(base, tokens)}
    weights = {name: x.clone() for name, x in base.state_dict().items()}
    for name, config in ADAPTERS.items():
      base = transformers.LlamaForCausalLM(CONFIG).double().eval()
      base.load_state_dict(weights)
      model = peft.get_peft_model(base, config).double().eval()
      move((p for p in model.parameters() if p.requires_grad), draw, 0.3)
      parts[name] = measured(model, tokens)
  for name, part in parts.items():
    out |= {f"{name}/{path}": x for path, x in part.items()}
  np.savez_compressed(pathlib.Path(__file__).with_name("peft.npz"), **out)


if __name__ == "__main__":
  main()
