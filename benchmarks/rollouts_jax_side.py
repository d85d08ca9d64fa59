"""Drawing completions with llm_jax. Prints a JSON object.

Arguments: the file of `drawing.prepare`, "each" or "group", drawings.
"""

import json
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tuning_jax
from llm_jax import host
from llm_jax import model as model_lib
from llm_jax.generation import rollouts
from llm_jax.models import cache
from llm_jax.ops.sampling import Sampler


def params(given: dict[str, Any]) -> dict[str, Any]:
  """The weights of both sides, as the decoder has them."""
  s = given["shape"]
  L, D, N = s["layers"], s["width"], s["heads"]
  with np.load(given["weights"]) as found:
    stack = lambda name: jnp.asarray(
      np.stack([found[f"model.layers.{i}.{name}_proj"].T for i in range(L)])
    )
    ones = lambda *dims: {"scale": jnp.ones(dims)}
    heads = lambda name: {
      "kernel": stack(f"self_attn.{name}").reshape(L, D, N, D // N)
    }
    out = stack("self_attn.o").reshape(L, N, D // N, D)
    return {
      "embedding": jnp.asarray(found["model.embed_tokens"]),
      "final_norm": ones(D),
      "blocks": {
        "attention_norm": ones(L, D),
        "mlp_norm": ones(L, D),
        "attention": {
          "query": heads("q"),
          "key": heads("k"),
          "value": heads("v"),
          "out": {"kernel": out},
        },
        "mlp": {
          name: {"kernel": stack(f"mlp.{name}")}
          for name in ("gate", "up", "down")
        },
      },
    }


def prompts(given: dict[str, Any], mode: str) -> dict[str, np.ndarray]:
  """Aligned on the right; in a group each stands several times."""
  found = given["prompts"]
  if mode == "group":
    group = given["group"]
    found = [p for p in found[: len(found) // group] for _ in range(group)]
  length_B = np.array([len(p) for p in found], np.int32)
  prompt_BP = np.zeros((len(found), length_B.max()), np.int32)
  for row, ids in zip(prompt_BP, found, strict=True):
    row[-len(ids) :] = ids
  return {"prompt_BP": prompt_BP, "length_B": length_B}


def main() -> None:
  """Draws a few times and times it."""
  host.keep_memory()
  given = json.loads(pathlib.Path(sys.argv[1]).read_text())
  mode, draws = sys.argv[2], int(sys.argv[3])
  model = model_lib.of_shape(tuning_jax.shape(given, norm_eps=1e-6))
  variables = {"params": params(given)}
  batch = prompts(given, mode)
  group = given["group"] if mode == "group" else 1

  @jax.jit
  def draw(variables: Any, prompt_BP: Any, length_B: Any, key: Any) -> Any:
    B, P = prompt_BP.shape
    variables = model.ready(variables)
    return rollouts.draw(
      model.decode,
      variables,
      prompt_BP,
      length_B,
      model.open_cache(variables, B // group, P),
      key,
      limit=given["new"],
      sampler=Sampler(temperature=given["temperature"]),
      stop_ids=(),
      completions=group,
      repeat=cache.repeated,
      grow=cache.grown,
    )

  ids = np.array([given["prompts"][0]], np.int32)  # one that fills its row
  rows = {"tokens_BT": ids[:, :-1], "target_BT": ids[:, 1:]}
  loss = -float(jax.jit(model.score)(variables, rows).logp_BT.mean())
  again = lambda seed: jax.block_until_ready(
    draw(variables, **batch, key=jax.random.key(seed))
  )
  again(0)
  wall, cpu = time.perf_counter(), time.process_time()
  tokens = sum(int(again(1 + i)["mask_BT"].sum()) for i in range(draws))
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  found = {"tokens": tokens, "wall": wall, "cpu": cpu, "losses": [loss]}
  print(json.dumps(found | {"version": f"jax {jax.__version__}"}))


if __name__ == "__main__":
  main()
