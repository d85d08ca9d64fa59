"""Loss and gradients of the `peft` library's LoRA, DoRA and IA3, in float64.

On a gated feed-forward, down(silu(gate x) * up x), of random weights. Needs
torch and peft 0.21.2; run by hand, the arrays are kept beside it:

  python tests/goldens/make_peft.py
"""

import pathlib

import numpy as np
import peft
import torch
from torch import nn

D, F, R, ROWS = 6, 10, 3, 7
MAPS = ("gate", "up", "down")


class MLP(nn.Module):
  """The maps as torch has them, [outputs, inputs]."""

  def __init__(self):
    super().__init__()
    self.gate = nn.Linear(D, F, bias=False)
    self.up = nn.Linear(D, F, bias=False)
    self.down = nn.Linear(F, D, bias=False)

  def forward(self, x):
    return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def lora(**kwargs):
  """Settings of LoRA on every map."""
  return peft.LoraConfig(
    r=R, lora_alpha=5, lora_dropout=0.0, target_modules=list(MAPS), **kwargs
  )


CONFIGS = {
  "lora": lora(),
  "stabilised": lora(use_rslora=True),
  "dora": lora(use_dora=True),
  "ia3": peft.IA3Config(
    target_modules=["up", "down"], feedforward_modules=["down"]
  ),
}


def main():
  """Writes peft.npz."""
  torch.manual_seed(0)
  draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
  x, target = draw(ROWS, D), draw(ROWS, D)
  weights = {name: draw(*getattr(MLP(), name).weight.shape) for name in MAPS}
  out = {"x": x, "target": target}
  out |= {f"base/{name}": w for name, w in weights.items()}
  for name, config in CONFIGS.items():
    model = MLP().double()
    with torch.no_grad():
      for at, w in weights.items():
        getattr(model, at).weight.copy_(w)
    model = peft.get_peft_model(model, config).double()
    moved = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
      for p in moved.values():
        p.copy_(p + 0.3 * draw(*p.shape))
    loss = ((model(x) - target) ** 2).sum()
    loss.backward()
    out[f"{name}/loss"] = loss
    for path, p in moved.items():
      short = path.removeprefix("base_model.model.")
      out[f"{name}/value/{short}"] = p
      out[f"{name}/gradient/{short}"] = p.grad
  arrays = {k: v.detach().numpy() for k, v in out.items()}
  np.savez_compressed(pathlib.Path(__file__).with_name("peft.npz"), **arrays)


if __name__ == "__main__":
  main()
