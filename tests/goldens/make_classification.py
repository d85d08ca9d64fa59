"""Losses and gradients of torch's cross-entropy, in float64.

Needs torch; run by hand, the numbers are kept beside it:

  python tests/goldens/make_classification.py
"""

import json
import pathlib

import numpy as np
import torch

WEIGHTS = (1.0, 0.0, 2.5)  # of classes
CASES = {
  "plain": {},
  "weights": {"weight": WEIGHTS},
  "smoothing": {"label_smoothing": 0.2},
  "smoothing_all": {"label_smoothing": 1.0},
}


def main() -> None:
  r = np.random.default_rng(0)
  logits, label = 3 * r.normal(size=(8, 3)), r.integers(0, 3, 8)
  logits[0] = [400, -400, 0]  # where an exponential overflows
  out = {"logits": logits.tolist(), "label": label.tolist(), "loss": {}}
  out |= {"gradient": {}, "torch": torch.__version__}
  for name, given in CASES.items():
    x = torch.tensor(logits, requires_grad=True)
    if "weight" in given:
      given = {"weight": torch.tensor(given["weight"], dtype=x.dtype)}
    loss = torch.nn.functional.cross_entropy(x, torch.tensor(label), **given)
    loss.backward()
    out["loss"][name] = loss.item()
    out["gradient"][name] = x.grad.tolist()
  path = pathlib.Path(__file__).parent / "classification.json"
  path.write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
