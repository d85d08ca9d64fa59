"""Losses and gradients of transformers' classification heads, in float64.

What `ForSequenceClassification` says of logits for each problem_type. Needs
torch and transformers; run by hand, the numbers are kept beside it:

  python tests/goldens/make_tasks.py
"""

import json
import pathlib

import numpy as np
import torch
import transformers
from transformers.loss.loss_utils import ForSequenceClassificationLoss

WEIGHTS = (1.0, 0.5, 4.0)  # of texts that are of a class


def main() -> None:
  r = np.random.default_rng(0)
  logits, sets = 3 * r.normal(size=(8, 3)), r.random((8, 3)) < 0.4
  logits[0] = [400, -400, 0]  # where an exponential overflows
  said, number = 2 * r.normal(size=(8, 1)), 2 * r.normal(size=8)
  out = {
    "logits": logits.tolist(),
    "sets": sets.tolist(),
    "said": said.tolist(),
    "number": number.tolist(),
    "weights": WEIGHTS,
    "loss": {},
    "gradient": {},
    "transformers": transformers.__version__,
    "torch": torch.__version__,
  }

  def note(name, x, loss):
    loss.backward()
    out["loss"][name] = loss.item()
    out["gradient"][name] = x.grad.tolist()

  def theirs(x, labels, kind):
    config = transformers.PretrainedConfig(
      problem_type=kind, num_labels=x.shape[1]
    )
    return ForSequenceClassificationLoss(labels, x, config)

  x = torch.tensor(logits, requires_grad=True)
  labels = torch.tensor(sets, dtype=x.dtype)
  note("sets", x, theirs(x, labels, "multi_label_classification"))
  x = torch.tensor(logits, requires_grad=True)
  weighed = torch.nn.BCEWithLogitsLoss(
    pos_weight=torch.tensor(WEIGHTS, dtype=x.dtype)
  )
  note("weights", x, weighed(x, labels))
  x = torch.tensor(said, requires_grad=True)
  note("number", x, theirs(x, torch.tensor(number), "regression"))
  path = pathlib.Path(__file__).parent / "tasks.json"
  path.write_text(json.dumps(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()
