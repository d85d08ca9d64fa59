"""Training steps in PyTorch: written by hand, and with `transformers`.

Needs torch and transformers, which llm_jax does not install. Prints one JSON
object. Dropout is off, AdamW decays matrices only, gradients are clipped at 1.
"""

import json
import math
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.shapes import Shape, SHAPES


class Block(nn.Module):
  """Pre-norm attention and a GELU feed-forward of four times the width."""

  def __init__(self, s: Shape):
    super().__init__()
    self.heads = s.heads
    self.norm1 = nn.LayerNorm(s.width, bias=s.bias)
    self.qkv = nn.Linear(s.width, 3 * s.width, bias=s.bias)
    self.out = nn.Linear(s.width, s.width, bias=s.bias)
    self.norm2 = nn.LayerNorm(s.width, bias=s.bias)
    self.up = nn.Linear(s.width, 4 * s.width, bias=s.bias)
    self.down = nn.Linear(4 * s.width, s.width, bias=s.bias)

  def forward(self, x):
    """One block."""
    B, T, D = x.shape
    split = lambda z: z.view(B, T, self.heads, D // self.heads).transpose(1, 2)
    q, k, v = map(split, self.qkv(self.norm1(x)).split(D, dim=2))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + self.out(y.transpose(1, 2).reshape(B, T, D))
    return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Decoder(nn.Module):
  """Tied embedding, learned positions."""

  def __init__(self, s: Shape):
    super().__init__()
    self.table = nn.Embedding(s.vocab, s.width)
    self.places = nn.Embedding(s.context, s.width)
    self.blocks = nn.ModuleList(Block(s) for _ in range(s.layers))
    self.norm = nn.LayerNorm(s.width, bias=s.bias)
    for p in self.parameters():
      if p.ndim > 1:
        nn.init.normal_(p, std=0.02)

  def forward(self, ids, target):
    """Mean loss, nats a token."""
    places = torch.arange(ids.shape[1], device=ids.device)
    x = self.table(ids) + self.places(places)
    for block in self.blocks:
      x = block(x)
    logits = F.linear(self.norm(x), self.table.weight)
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten())


def transformers_model(s: Shape):
  """GPT-2 of `transformers`, same shape; it always has biases."""
  import transformers

  config = transformers.GPT2Config(
    vocab_size=s.vocab,
    n_positions=s.context,
    n_embd=s.width,
    n_layer=s.layers,
    n_head=s.heads,
    resid_pdrop=0,
    embd_pdrop=0,
    attn_pdrop=0,
    use_cache=False,
  )
  model = transformers.GPT2LMHeadModel(config)

  def loss(ids, target):
    logits = model(input_ids=ids).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten())

  return model, loss


def main() -> None:
  """Arguments: side, shape, steps."""
  side, name, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
  s = SHAPES[name]
  device = "cuda" if torch.cuda.is_available() else "cpu"
  half = device == "cuda"
  torch.manual_seed(0)
  if side == "transformers":
    model, loss = transformers_model(s)
  else:
    model = Decoder(s)
    loss = model
  model.to(device)
  if half:
    torch.set_float32_matmul_precision("high")
    loss = torch.compile(loss)
  matrices = [p for p in model.parameters() if p.ndim > 1]
  others = [p for p in model.parameters() if p.ndim <= 1]
  optimizer = torch.optim.AdamW(
    [
      {"params": matrices, "weight_decay": 0.1},
      {"params": others, "weight_decay": 0.0},
    ],
    lr=1e-3,
    betas=(0.9, 0.99),
    fused=half or None,
  )
  ids = torch.randint(s.vocab, (16, s.batch, s.context + 1), device=device)

  def step(i: int) -> float:
    batch = ids[i % len(ids)]
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=half):
      value = loss(batch[:, :-1], batch[:, 1:])
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return value

  start = time.perf_counter()
  last = step(0).item()
  first = time.perf_counter() - start
  for i in range(3):
    last = step(i).item()
  wall, cpu = time.perf_counter(), time.process_time()
  for i in range(steps):
    value = step(i)
  last = value.item()
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  usage = resource.getrusage(resource.RUSAGE_SELF)
  assert math.isfinite(last)
  print(
    json.dumps(
      {
        "side": side,
        "wall_ms": 1e3 * wall / steps,
        "cpu_ms": 1e3 * cpu / steps,
        "first_s": first,
        "peak_mib": usage.ru_maxrss / 1024,
        "loss": last,
        "parameters": sum(p.numel() for p in model.parameters()),
        "version": f"torch {torch.__version__}",
      }
    )
  )


if __name__ == "__main__":
  main()
