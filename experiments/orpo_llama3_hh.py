r"""Llama 3 8B becomes an instruct model by ORPO on HH-RLHF, in one go.

ORPO (arXiv:2403.07691) begins from a base model: its loss tunes on the chosen
answers and prefers them at once, without a reference. Learning rate and beta
(lambda there) are a place to begin, not tuned.

  python -m experiments.orpo_llama3_hh train \
      --init_from=hf:Meta-Llama-3-8B \
      --data.template=hf:Meta-Llama-3-8B-Instruct \
      --data.sources.0.paths=hh_harmless.jsonl.gz

Both are folders as downloaded: the base, and the one whose chat template it is
taught. 16 TPU v5p chips or 16 GPUs of 80 GB; not run yet: `plan` says what it
needs.
"""

import dataclasses

from experiments import dpo_llama3_hh
from llm_jax import cli
from llm_jax.objectives.unreferenced import ORPO
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  dpo_llama3_hh.EXPERIMENT,
  objective=ORPO(beta=0.1),
  optimizer=AdamW(
    peak=5e-6, schedule=Schedule("linear", warmup=100), weight_decay=0.0
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
