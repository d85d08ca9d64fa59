"""A sequence-to-sequence LSTM and GRU with attention by torch, in float64.

The stacks are torch.nn.LSTM and torch.nn.GRU; attention is written out here, a
position of the target after the other (Luong et al. 2015, arXiv:1508.04025,
equations 5 to 8). Needs torch 2; run by hand, the arrays are kept beside it:

  python tests/goldens/make_recurrent_encoder_decoder.py
"""

import pathlib

import numpy as np
import torch

VOCAB, WIDTH, LAYERS, TARGET = 7, 4, 2, 4
SOURCES = (5, 2, 3)  # tokens of each
KINDS = {
  "lstm_both_general": (torch.nn.LSTM, True, True),
  "gru_both_dot": (torch.nn.GRU, True, False),
  "lstm_forward_dot": (torch.nn.LSTM, False, False),
  "gru_forward_general": (torch.nn.GRU, False, True),
}


def logits(modules, source, targets):
  """Of one source's target, [T, V]."""
  table, encoder, decoder = (modules[n] for n in ("table", "encoder", "writer"))
  read, last = encoder(table(source)[None])
  last = last if isinstance(last, tuple) else (last,)

  def handed(state):  # both directions of a layer beside each other
    both = 2 if encoder.bidirectional else 1
    layers = state.reshape(LAYERS, both, 1, -1)
    return torch.cat([layers[:, i] for i in range(both)], -1).contiguous()

  state = tuple(map(handed, last))
  said, _ = decoder(table(targets)[None], state if len(state) > 1 else state[0])
  out = []
  for h in said[0]:
    if "general" in modules:
      scores = torch.stack([h @ modules["general"](s) for s in read[0]])
    else:
      scores = torch.stack([h @ s for s in read[0]])
    weights = torch.softmax(scores, 0)
    found = sum(a * s for a, s in zip(weights, read[0], strict=True))
    attended = torch.tanh(modules["combine"](torch.cat([found, h])))
    out.append(table.weight @ attended)
  return torch.stack(out)


def main():
  """Draws weights and ids; writes what comes out of them."""
  torch.manual_seed(0)
  made = {}
  for name, (kind, both, general) in KINDS.items():
    half = WIDTH // 2 if both else WIDTH
    stack = {"num_layers": LAYERS, "batch_first": True}
    modules = {
      "table": torch.nn.Embedding(VOCAB, WIDTH),
      "encoder": kind(WIDTH, half, bidirectional=both, **stack),
      "writer": kind(WIDTH, WIDTH, **stack),
      "combine": torch.nn.Linear(2 * WIDTH, WIDTH, bias=False),
    }
    if general:
      modules["general"] = torch.nn.Linear(WIDTH, WIDTH, bias=False)
    modules = torch.nn.ModuleDict(modules).double()
    ids = {
      "source": torch.randint(VOCAB, (len(SOURCES), max(SOURCES))),
      "target": torch.randint(VOCAB, (len(SOURCES), TARGET)),
    }
    rows = [
      logits(modules, ids["source"][i, :n], ids["target"][i])
      for i, n in enumerate(SOURCES)
    ]
    found = torch.stack(rows)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    out = {"logits": found, "weight": weight, "sizes": torch.tensor(SOURCES)}
    out |= ids | dict(modules.named_parameters())
    out |= {f"d/{k}": v.grad for k, v in modules.named_parameters()}
    made |= {f"{name}/{k}": v.detach().numpy() for k, v in out.items()}
  path = pathlib.Path(__file__).with_name("recurrent_encoder_decoder.npz")
  np.savez_compressed(path, **made)


if __name__ == "__main__":
  main()
