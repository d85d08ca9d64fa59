r"""A reward model on Llama 3 8B, from the pairs of HH-RLHF.

Bradley-Terry (arXiv:2203.02155, eq. 1) with centred rewards
(arXiv:2312.09244), one epoch of the harmless half. Learning rate and batch, 64
pairs, are those of the former's reward model.

  python -m experiments.rm_llama3_hh train \
      --init_from=runs/sft_llama3_8b_messages \
      --data.sources.0.paths=hh_harmless.jsonl.gz

`--init_from` is the tuned model, whose head with one output is new: a run
folder, with the `--data.template` that it was tuned with, or
`hf:Meta-Llama-3-8B-Instruct` with that of the same name. 16 TPU v5p chips or 16
GPUs of 80 GB; not run yet: `plan` says what it needs.
"""

import dataclasses

from experiments import dpo_llama3_hh
from llm_jax import cli
from llm_jax.experiment import Samples
from llm_jax.objectives.ranking import Ranking
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  dpo_llama3_hh.EXPERIMENT,
  model=dataclasses.replace(dpo_llama3_hh.EXPERIMENT.model, outputs=1),
  objective=Ranking(center=0.01),
  optimizer=AdamW(
    peak=9e-6, schedule=Schedule("cosine", warmup=30), weight_decay=0.0
  ),
  samples=Samples(every=0),
  steps=650,
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
