"""Outputs and gradients of torch.nn.LSTM and torch.nn.GRU, in float64.

Needs torch 2; run by hand, the arrays are kept beside it:

  python tests/goldens/make_recurrent.py
"""

import pathlib

import numpy as np
import torch

WIDTH, ROWS, LENGTH, LAYERS = 3, 2, 5, 2


def main():
  """Draws weights, inputs and states; writes what comes out of them."""
  torch.manual_seed(0)
  out = {}
  for name, kind in (("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)):
    module = kind(WIDTH, WIDTH, num_layers=LAYERS, batch_first=True)
    module = module.double()
    given = {
      "x": torch.randn(ROWS, LENGTH, WIDTH),
      "h": torch.randn(LAYERS, ROWS, WIDTH),
      "c": torch.randn(LAYERS, ROWS, WIDTH),
    }
    given = {k: v.double().requires_grad_() for k, v in given.items()}
    state = (given["h"], given["c"])
    said, last = module(given["x"], state if name == "lstm" else state[0])
    last = last if name == "lstm" else (last,)
    weights = [torch.randn_like(a) for a in (said, *last)]
    loss = sum(
      (w * a).sum() for w, a in zip(weights, (said, *last), strict=True)
    )
    loss.backward()
    found = {
      "said": said,
      **{f"last_{i}": a for i, a in enumerate(last)},
      **{f"weight_{i}": w for i, w in enumerate(weights)},
      **given,
      **{f"d_{k}": v.grad for k, v in given.items() if v.grad is not None},
      **dict(module.named_parameters()),
      **{f"d_{k}": v.grad for k, v in module.named_parameters()},
    }
    for key, x in found.items():
      out[f"{name}/{key}"] = x.detach().numpy()
  np.savez_compressed(pathlib.Path(__file__).with_name("recurrent.npz"), **out)


if __name__ == "__main__":
  main()
