"""Kahneman-Tversky optimisation of the small decoder.

Needs no download: the lines of `dpo_tiny_stdlib`, each on its own, liked or
not. KTO (arXiv:2402.01306) on every weight; the reference is the tuned model
that it begins from. `evaluate` measures it on the same pairs as DPO.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train
  python -m experiments.kto_tiny_stdlib train

A laptop's CPU (4 cores), a few minutes.
"""

import dataclasses

from experiments import dpo_tiny_stdlib
from llm_jax import cli
from llm_jax.data.preferences import Preferences
from llm_jax.objectives.kto import KTO

EXPERIMENT = dataclasses.replace(
  dpo_tiny_stdlib.EXPERIMENT,
  objective=KTO(beta=0.1),
  data=Preferences(rows="labels", length=128, too_long="drop"),
  batch_size=32,  # half of them completions, half mismatched ones
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
