"""Instruction tuning of the small decoder by low-rank adapters.

LoRA (arXiv:2106.09685) on every map; the base does not move. The base has read
nothing but texts, so what is added to the embeddings of special tokens trains
too: without it the model does not learn to end an answer.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.lora_tiny_stdlib train

A laptop's CPU (4 cores), a few minutes.
"""

import dataclasses

from experiments import sft_tiny_stdlib
from llm_jax import cli
from llm_jax.peft.lora import LoRA
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  sft_tiny_stdlib.EXPERIMENT,
  peft=LoRA(rank=7, alpha=28.0, special_tokens=12),
  optimizer=AdamW(
    peak=3e-3, schedule=Schedule("cosine", warmup=20), weight_decay=0.0
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
