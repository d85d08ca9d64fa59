"""Instruction tuning of the small decoder by biases alone.

BitFit (arXiv:2106.10199): a bias for each map; the base does not move.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.bitfit_tiny_stdlib train

A laptop's CPU (4 cores), a few minutes.
"""

import dataclasses

from experiments import sft_tiny_stdlib
from llm_jax import cli
from llm_jax.peft.select import BitFit
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  sft_tiny_stdlib.EXPERIMENT,
  peft=BitFit(special_tokens=12),
  optimizer=AdamW(
    peak=1e-2, schedule=Schedule("cosine", warmup=20), weight_decay=0.0
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
