"""Memory of a training step by the compiler's own account; nothing is made.

python -m benchmarks.peft_memory [layers] [way ...]

Compiles the step of llama3_1b (16 layers, or as many as given) in full and
with LoRA, and prints the bytes of its arguments (weights, optimizer, batch),
of what it returns in their place (donated) and of what it needs meanwhile. The
ways of DPO are of a pair, with a reference at each step or asked before (once).
"""

import dataclasses
import sys
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from llm_jax import model as model_lib
from llm_jax import state_plan, trees
from llm_jax.contracts import Objective
from llm_jax.data.arrays import Arrays
from llm_jax.experiment import Experiment
from llm_jax.models import presets
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.dpo import DPO
from llm_jax.peft.hold import Held
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import Full, Method
from llm_jax.sharding import mesh as mesh_lib

LENGTH = 512


class Way(NamedTuple):
  """What trains, how the rest is held, and by which objective."""

  peft: Method
  frozen: Held = "same"
  objective: Objective = Causal()
  reference: Literal["each_step", "once"] = "each_step"


WAYS = {
  "full": Way(Full()),
  "lora": Way(LoRA(rank=8)),
  "lora_bfloat16": Way(LoRA(rank=8), "bfloat16"),
  "lora_int8": Way(LoRA(rank=8), "int8"),
  "lora_nf4": Way(LoRA(rank=8), "nf4"),
  "dpo_full": Way(Full(), objective=DPO()),
  "dpo_full_once": Way(Full(), objective=DPO(), reference="once"),
  "dpo_lora": Way(LoRA(rank=8), objective=DPO()),
  "dpo_lora_once": Way(LoRA(rank=8), objective=DPO(), reference="once"),
}


def measure(way: str, layers: int = 16) -> dict[str, int]:
  """Bytes of one way of training, as planned and as compiled."""
  found = WAYS[way]
  rows = found.objective.rows_together
  shape = dataclasses.replace(
    presets.llama3_1b(), num_layers=layers, dtype="bfloat16", remat="full"
  )
  experiment = Experiment(
    model=shape,
    data=Arrays(length=LENGTH),
    objective=found.objective,
    peft=found.peft,
    frozen=found.frozen,
    reference=found.reference,
    batch_size=rows,
    mesh=mesh_lib.MeshShape(1, 1, 1),
  )
  mesh = mesh_lib.make(experiment.mesh)
  with jax.set_mesh(mesh):
    model = model_lib.of_shape(shape)
    asks = found.objective.needs_reference and found.reference == "each_step"
    plan = state_plan.make(experiment, model, mesh, reference=asks)
    ids = jax.ShapeDtypeStruct((rows, LENGTH), jnp.int32)
    batch = {"tokens_BT": ids, "target_BT": ids}
    batch["mask_BT"] = jax.ShapeDtypeStruct(ids.shape, bool)
    if found.reference == "once":
      batch["ref_logp_B"] = jax.ShapeDtypeStruct((rows,), jnp.float32)
    compiled = plan.step.lower(plan.abstract, batch).compile()
  analysis, state = compiled.memory_analysis(), plan.abstract
  return {
    "trainable": trees.num_bytes(state.trainable),
    "frozen": trees.num_bytes(state.frozen),
    "optimizer": trees.num_bytes(state.opt_state),
    "arguments": analysis.argument_size_in_bytes,
    "returned": analysis.output_size_in_bytes,
    "in place": analysis.alias_size_in_bytes,
    "meanwhile": analysis.temp_size_in_bytes,
  }


def main() -> None:
  """Prints a table, MiB."""
  layers = int(sys.argv[1]) if sys.argv[1:] else 16
  print(f"llama3_1b, {layers} layers, rows of {LENGTH} tokens, MiB")
  for i, way in enumerate(sys.argv[2:] or WAYS):
    found = measure(way, layers)
    if not i:
      print(f"{'':<15}" + "".join(f"{name:>11}" for name in found))
    cells = "".join(f"{x / 2**20:>11,.1f}" for x in found.values())
    print(f"{way:<15}{cells}", flush=True)


if __name__ == "__main__":
  main()
