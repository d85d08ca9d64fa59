"""A small mixture of experts on the standard library's own documentation.

Mixtral's block (arXiv:2401.04088) at the size of `pretrain_tiny_stdlib`: 8
experts, of which each token takes 2, and the loss that keeps their use even.
Needs no download.

  python -m experiments.pretrain_moe_stdlib train
"""

import dataclasses

from experiments import pretrain_tiny_stdlib
from llm_jax import cli
from llm_jax.models import presets

EXPERIMENT = dataclasses.replace(
  pretrain_tiny_stdlib.EXPERIMENT,
  model=dataclasses.replace(presets.tiny_moe(), dropout=0.1),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
