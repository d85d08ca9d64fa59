"""Instruction tuning of the small decoder by a soft prompt.

Twenty virtual tokens before each document (arXiv:2104.08691); the base does
not move.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.prompt_tiny_stdlib train

A laptop's CPU (4 cores), a few minutes.
"""

import dataclasses

from experiments import sft_tiny_stdlib
from llm_jax import cli
from llm_jax.peft.prompts import Prompt
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  sft_tiny_stdlib.EXPERIMENT,
  peft=Prompt(tokens=20, init="vocabulary"),
  optimizer=AdamW(
    peak=1e-1, schedule=Schedule("cosine", warmup=20), weight_decay=0.0
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
