r"""Llama 3 8B learns to please a reward model, PPO on the prompts of HH-RLHF.

PPO (arXiv:1909.08593) with the settings of the TL;DR recipe (arXiv:2403.17031):
512 completions an update, read four times, beta 0.05, the critic begun as the
reward model. The learning rate is that of 7B policies (arXiv:2405.11143). 320
steps are 80 updates, one pass over the prompts of the harmless half
(arXiv:2204.05862).

  python -m experiments.rm_llama3_hh train \
      --init_from=runs/sft_llama3_8b_messages \
      --data.sources.0.paths=hh_harmless.jsonl.gz
  python -m experiments.ppo_llama3_hh train \
      --init_from=runs/sft_llama3_8b_messages \
      --data.sources.0.paths=hh_harmless.jsonl.gz

`--init_from` is the tuned model, which is the reference, too: a run folder,
with the `--data.template` that it was tuned with, or
`hf:Meta-Llama-3-8B-Instruct` with that of the same name. 16 TPU v5p chips or 16
GPUs of 80 GB; not run yet: `plan` says what it needs, and beside that are the
weights of the reward model, 30 GiB over all devices.
"""

import dataclasses

from experiments import dpo_llama3_hh
from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.experiment import Validation
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.reward import RewardModel
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.sampling import Sampler
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

REWARD = "runs/rm_llama3_hh"
EXPERIMENT = dataclasses.replace(
  dpo_llama3_hh.EXPERIMENT,
  model=dataclasses.replace(dpo_llama3_hh.EXPERIMENT.model, outputs=1),
  objective=PPO(),
  judge=RewardModel(run=REWARD),
  value_from=REWARD,
  data=dataclasses.replace(dpo_llama3_hh.EXPERIMENT.data, length=768),
  rollouts=Rollouts(
    batch=512,
    epochs=4,
    max_prompt=512,
    max_new_tokens=256,
    sampler=Sampler(temperature=0.7),
  ),
  shaping=Shaping(missing_eos="subtract", beta=0.05),
  optimizer=AdamW(
    peak=5e-7,
    eps=1e-5,
    schedule=Schedule("linear", warmup=10),
    weight_decay=0.0,
  ),
  steps=320,
  batch_size=512,
  microbatches=4,
  checkpoints=Checkpoints(every=40),
  validation=Validation(every=40, batches=1, questions=256, best_of=1),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
