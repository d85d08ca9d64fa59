"""Memory of a training step by the compiler's own account; nothing is made.

python -m benchmarks.peft_memory [layers]

Compiles the step of llama3_1b (16 layers, or as many as given) in full and
with LoRA, and prints the bytes of its arguments (weights, optimizer, batch),
of what it returns in their place (donated) and of what it needs meanwhile.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp

from llm_jax import model as model_lib
from llm_jax import trees, weights
from llm_jax.data.arrays import Arrays
from llm_jax.experiment import Experiment
from llm_jax.models import presets
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Full
from llm_jax.sharding import mesh as mesh_lib

LENGTH, ROWS = 512, 1
WAYS = {
  "full": (Full(), "same"),
  "lora": (LoRA(rank=8), "same"),
  "lora_bfloat16": (LoRA(rank=8), "bfloat16"),
  "lora_int8": (LoRA(rank=8), "int8"),
  "lora_nf4": (LoRA(rank=8), "nf4"),
}


def measure(way: str, layers: int = 16) -> dict[str, int]:
  """Bytes of one way of training, as planned and as compiled."""
  peft, frozen = WAYS[way]
  shape = dataclasses.replace(
    presets.llama3_1b(), num_layers=layers, dtype="bfloat16", remat="full"
  )
  experiment = Experiment(
    model=shape,
    data=Arrays(length=LENGTH),
    peft=peft,
    frozen=frozen,
    batch_size=ROWS,
    mesh=mesh_lib.MeshShape(1, 1, 1),
  )
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    plan = weights.plan(experiment, model_lib.of_shape(shape), mesh)
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
    batch = {"tokens_BT": ids, "target_BT": ids}
    batch["mask_BT"] = jax.ShapeDtypeStruct(ids.shape, bool)
    compiled = plan.step.lower(plan.abstract, batch).compile()
  found, state = compiled.memory_analysis(), plan.abstract
  return {
    "trainable": trees.num_bytes(state.trainable),
    "frozen": trees.num_bytes(state.frozen),
    "optimizer": trees.num_bytes(state.opt_state),
    "arguments": found.argument_size_in_bytes,
    "returned": found.output_size_in_bytes,
    "in place": found.alias_size_in_bytes,
    "meanwhile": found.temp_size_in_bytes,
  }


def main() -> None:
  """Prints a table, MiB."""
  layers = int(sys.argv[1]) if sys.argv[1:] else 16
  print(f"llama3_1b, {layers} layers, {ROWS} x {LENGTH} tokens, MiB")
  for i, way in enumerate(WAYS):
    found = measure(way, layers)
    if not i:
      print(f"{'':<14}" + "".join(f"{name:>11}" for name in found))
    cells = "".join(f"{x / 2**20:>11,.1f}" for x in found.values())
    print(f"{way:<14}{cells}", flush=True)


if __name__ == "__main__":
  main()
