"""Steps of instruction tuning with llm_jax. Prints a JSON object.

Arguments: a JSON file ({"paths", "cache", "tokenizer", "shape", "length",
"batch_size"}), "packed" or "padded", steps.
"""

import functools
import json
import math
import pathlib
import sys
import time

import jax

from llm_jax import axes, host
from llm_jax import model as model_lib
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.causal import Causal
from llm_jax.tokenizers import store
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

_WARM = 3


def instructions(given: dict, packing: str) -> Instructions:
  """The data, by the settings that both sides share."""
  return Instructions(
    sources=(
      Conversations(paths=(given["paths"],), task="question_answering"),
    ),
    length=given["length"],
    packing=packing,
    too_long="drop",
    cache=given["cache"],
  )


def main() -> None:
  """Trains for a few steps and times the later ones."""
  host.keep_memory()
  given = json.loads(pathlib.Path(sys.argv[1]).read_text())
  packing = "best_fit" if sys.argv[2] == "packed" else "one"
  steps = int(sys.argv[3])
  tokenizer = store.load(given["tokenizer"])
  plain = lambda items, total=None, label="": items
  source = (
    instructions(given, packing)
    .prepare(plain)
    .tokenise(tokenizer, plain)
    .train(given["batch_size"], 0)
  )
  s = given["shape"]
  model = model_lib.of_shape(
    TransformerConfig(
      num_layers=s["layers"],
      embed_dim=s["width"],
      mlp_dim=s["mlp"],
      num_heads=s["heads"],
      vocab_size=s["vocab"],
      max_length=given["length"],
      unroll=0,
      dtype="bfloat16" if jax.default_backend() == "gpu" else "float32",
    )
  )
  key = jax.random.key(0)
  suffixes = axes.suffixes({"policy": jax.eval_shape(model.init, key)})
  optimizer = AdamW(
    peak=1e-4, schedule=Schedule("constant", 0), weight_decay=0.0
  ).make(steps, suffixes)
  state = jax.jit(
    lambda key: state_lib.create(
      {"policy": axes.unbox(model.init(key))}, lambda p: True, optimizer, key
    )
  )(key)
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=Causal(),
      forward={"policy": model.score},
      optimizer=optimizer,
    ),
    donate_argnums=0,
  )
  trained, losses = 0, []
  for i in range(_WARM + steps):
    if i == _WARM:
      wall, cpu = time.perf_counter(), time.process_time()
    batch = source.next()
    trained += int(batch["mask_BT"].sum()) if i >= _WARM else 0
    state, metrics = step(state, batch)
    losses.append(metrics["loss"].compute())
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  assert all(map(math.isfinite, losses))
  print(
    json.dumps(
      {
        "wall_tokens": trained / wall,
        "cpu_tokens": trained / cpu,
        "losses": losses,
        "version": f"jax {jax.__version__}",
      }
    )
  )


if __name__ == "__main__":
  main()
