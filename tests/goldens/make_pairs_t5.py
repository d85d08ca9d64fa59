"""Direct preference optimisation of a tiny T5 by torch, written out by hand.

For each pair of completions y_w and y_l of one source,

  log p(y) = sum of the log-probabilities of its labels, -100 not counted
  loss     = -log sigmoid(beta ((log pi(y_w) - log ref(y_w))
                                - (log pi(y_l) - log ref(y_l))))

all of it in float64, and how the mean loss changes along one direction of the
policy's weights: the gradient. The models are `encoder_decoders.py`'s T5 v1.1,
its weights drawn from seeds 0 (policy), 2 (reference) and 3 (direction). Needs
torch 2.13 and transformers 5.23; run by hand, the arrays are kept beside it:

  python tests/goldens/make_pairs_t5.py
"""

import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from tests.goldens import encoder_decoders, families

CONFIG = encoder_decoders.CASES["t5"]
BETA = 0.3
SOURCES = (7, 3, 5)  # tokens of each
SIZES = ((4, 6), (5, 1), (2, 3))  # of its completions: chosen, rejected


def logp(net, sources, labels):
  """Of each row's labels, given its source."""
  mask = (sources != 0).long()  # 0 is padding
  logits = net(input_ids=sources, attention_mask=mask, labels=labels).logits
  there = labels != -100
  found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])
  return (found[..., 0] * there).sum(-1)


def main():
  """Draws ids; writes them and what comes out."""
  families.widen()
  policy, reference, direction = (
    encoder_decoders.drawn(CONFIG, seed)[0] for seed in (0, 2, 3)
  )
  rng = np.random.default_rng(5)
  S, T = max(SOURCES), max(map(max, SIZES))
  sources = np.zeros((2 * len(SOURCES), S), int)
  labels = np.full((len(sources), T), -100)
  for q, (size, both) in enumerate(zip(SOURCES, SIZES, strict=True)):
    sources[2 * q : 2 * q + 2, :size] = rng.integers(2, 48, size)
    for row, n in enumerate(both, 2 * q):
      labels[row, :n] = rng.integers(2, 48, n)
  ids = torch.from_numpy(sources), torch.from_numpy(labels)
  policy_Q2 = logp(policy, *ids).reshape(-1, 2)
  with torch.no_grad():
    reference_Q2 = logp(reference, *ids).reshape(-1, 2)
  ratio_Q2 = policy_Q2 - reference_Q2
  margin_Q = ratio_Q2[:, 0] - ratio_Q2[:, 1]
  loss = -torch.log(torch.sigmoid(BETA * margin_Q)).mean()
  loss.backward()
  along = zip(policy.parameters(), direction.parameters(), strict=True)
  slope = sum((x.grad * way).sum() for x, way in along)
  assert loss.dtype == torch.float64
  path = pathlib.Path(__file__).with_name("pairs_t5.npz")
  np.savez_compressed(
    path,
    source_BS=sources,
    label_BT=labels,
    beta=BETA,
    policy_Q2=policy_Q2.detach().numpy(),
    reference_Q2=reference_Q2.numpy(),
    loss=loss.item(),
    slope=slope.item(),
  )
  print(f"{path.name}: {path.stat().st_size} bytes, loss {loss.item():.6f}")


if __name__ == "__main__":
  main()
