"""Instruction tuning of the small decoder on questions about functions.

Needs no download: 26,000 questions about 6,800 functions of the running
interpreter's standard library. Modules are held out whole, and are those that
the base did not see either.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train

A laptop's CPU (4 cores), a few minutes.
"""

import dataclasses

from experiments import pretrain_tiny_stdlib
from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.instructions import Instructions
from llm_jax.data.stdlib_tasks import StdlibTasks
from llm_jax.experiment import Evaluation, Samples, Validation
from llm_jax.models import presets
from llm_jax.ops.sampling import Sampler
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  pretrain_tiny_stdlib.EXPERIMENT,
  model=presets.tiny(),
  data=Instructions(sources=(StdlibTasks(),), length=128, too_long="drop"),
  optimizer=AdamW(
    peak=1e-3, schedule=Schedule("cosine", warmup=20), weight_decay=0.1
  ),
  init_from="runs/pretrain_tiny_stdlib",
  steps=200,
  batch_size=16,
  checkpoints=Checkpoints(every=100),
  validation=Validation(every=100, batches=10, baselines=False),
  samples=Samples(
    every=100,
    prompts=(
      "Name the function that this docstring describes.\n\n"
      "Return the size of a file, reported by os.stat().",
    ),
    max_new_tokens=32,
    sampler=Sampler(temperature=0.0),
  ),
  evaluations=(
    Evaluation("pretraining text", pretrain_tiny_stdlib.EXPERIMENT.data),
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
