r"""Llama 3 8B learns which answers people prefer, by SimPO on HH-RLHF.

SimPO (arXiv:2405.14734) needs no reference: a reward is the mean
log-probability of a completion's tokens. Beta, gamma and learning rate are in
the range that its authors searched.

  python -m experiments.simpo_llama3_hh train \
      --init_from=runs/sft_llama3_8b_messages \
      --data.sources.0.paths=hh_harmless.jsonl.gz

`--init_from` is the tuned model: a run folder, with the `--data.template` that
it was tuned with, or `hf:Meta-Llama-3-8B-Instruct` with that of the same name.
16 TPU v5p chips or 16 GPUs of 80 GB; not run yet: `plan` says what it needs.
"""

import dataclasses

from experiments import dpo_llama3_hh
from llm_jax import cli
from llm_jax.objectives.unreferenced import SimPO
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  dpo_llama3_hh.EXPERIMENT,
  objective=SimPO(beta=2.0, gamma=1.0),
  optimizer=AdamW(
    peak=6e-7, schedule=Schedule("cosine", warmup=130), weight_decay=0.0
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
