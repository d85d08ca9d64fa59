"""Drawing completions with `transformers`' generate. Prints a JSON object.

Arguments: the file of `drawing.prepare`, "each" or "group", drawings. Needs
torch and transformers.
"""

import json
import os
import sys
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before what reads it

import numpy as np
import torch
import transformers

from benchmarks import llama


def model(given: dict[str, Any]) -> transformers.PreTrainedModel:
  """The decoder that both sides share, with its weights."""
  config = llama.config(
    given, max_position_embeddings=given["length"], eos_token_id=None
  )
  out = load(transformers.LlamaForCausalLM(config).eval(), given)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  return out.to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def load(
  model: transformers.PreTrainedModel, given: dict[str, Any]
) -> transformers.PreTrainedModel:
  """The model, with the weights that both sides share."""
  with np.load(given["weights"]) as found, torch.no_grad():
    for name, x in found.items():
      model.get_parameter(f"{name}.weight").copy_(torch.from_numpy(x))
  return model


def main() -> None:
  """Draws a few times and times it."""
  with open(sys.argv[1]) as f:
    given = json.load(f)
  mode, draws = sys.argv[2], int(sys.argv[3])
  its = model(given)
  group = given["group"] if mode == "group" else 1
  prompts = given["prompts"][: len(given["prompts"]) // group]
  longest = max(map(len, prompts))
  pad = lambda p, x: [x] * (longest - len(p))
  ids = torch.tensor([pad(p, 0) + p for p in prompts], device=its.device)
  seen = torch.tensor(
    [pad(p, 0) + [1] * len(p) for p in prompts], device=its.device
  )
  first = torch.tensor(given["prompts"][:1], device=its.device)

  @torch.no_grad()
  def draw() -> int:
    out = its.generate(
      input_ids=ids,
      attention_mask=seen,
      max_new_tokens=given["new"],
      do_sample=True,
      top_k=0,
      temperature=given["temperature"],
      num_return_sequences=group,
      pad_token_id=0,
    )
    return (out.shape[1] - longest) * len(out)

  with torch.no_grad():
    loss = float(its(input_ids=first, labels=first).loss)
  draw()
  wall, cpu = time.perf_counter(), time.process_time()
  tokens = sum(draw() for _ in range(draws))
  if torch.cuda.is_available():
    torch.cuda.synchronize()
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  version = (
    f"torch {torch.__version__}, transformers {transformers.__version__}"
  )
  found = {"tokens": tokens, "wall": wall, "cpu": cpu, "losses": [loss]}
  print(json.dumps(found | {"version": version}))


if __name__ == "__main__":
  main()
