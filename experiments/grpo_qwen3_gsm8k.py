r"""Qwen 3 0.6B learns to solve grade-school problems, by whether it is right.

GRPO (arXiv:2402.03300) on the questions of GSM8K (arXiv:2110.14168), whose rows
have `question` and `answer`. A completion is worth 1 if its last number is that
of the answer, else 0, and 0 if it does not come to an end; no other answer is
shown. Eight completions a question and the weight of the KL are the paper's;
the learning rate is its, too. 600 steps are 600 updates of 32 questions, two
and a half passes.

  python -m experiments.grpo_qwen3_gsm8k train --init_from=hf:Qwen3-0.6B-Base \
      --data.template=hf:Qwen3-0.6B-Base \
      --data.sources.0.paths=gsm8k_train.jsonl

The base, a folder as downloaded, is the reference, too; a base that was tuned
on a few hundred answers (`lora_qwen3_gsm8k`, merged) ends its completions
sooner. `--rollouts.drawings=5` gives up questions that are always answered
right, or never (DAPO). One GPU of 80 GB; not run yet: `plan` says what it
needs.
"""

import dataclasses

from experiments import lora_qwen3_gsm8k
from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.experiment import Validation
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.references import Number
from llm_jax.objectives import group
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.sampling import Sampler
from llm_jax.peft.method import Full
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  lora_qwen3_gsm8k.EXPERIMENT,
  model=dataclasses.replace(lora_qwen3_gsm8k.EXPERIMENT.model, remat="dots"),
  objective=group.grpo(8),
  judge=Number(),
  data=dataclasses.replace(lora_qwen3_gsm8k.EXPERIMENT.data, length=768),
  peft=Full(),
  frozen="same",
  rollouts=Rollouts(
    batch=256,
    epochs=1,
    max_prompt=256,
    max_new_tokens=512,
    sampler=Sampler(temperature=1.0),
  ),
  shaping=Shaping(missing_eos="replace", penalty=0.0),
  optimizer=AdamW(
    peak=1e-6, schedule=Schedule("constant", warmup=10), weight_decay=0.0
  ),
  steps=600,
  batch_size=256,
  microbatches=8,
  checkpoints=Checkpoints(every=100),
  validation=Validation(every=50, batches=1, baselines=False, best_of=1),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
