r"""Qwen 3 0.6B learns to solve grade-school problems, by low-rank adapters.

LoRA (arXiv:2106.09685) on GSM8K (arXiv:2110.14168), whose rows have `question`
and `answer`.

  python -m experiments.lora_qwen3_gsm8k train --init_from=hf:Qwen3-0.6B-Base \
      --data.template=hf:Qwen3-0.6B-Base \
      --data.sources.0.paths=gsm8k_train.jsonl

The base is a folder as downloaded. One GPU of 16 GB; not run yet: `plan` says
what it needs.
"""

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.ops.sampling import Sampler
from llm_jax.peft.lora import LoRA
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=presets.qwen3_0_6b(),
  data=Instructions(
    sources=(Conversations(task="question_answering"),),
    length=1024,
    too_long="drop",
  ),
  peft=LoRA(rank=16, alpha=32.0),
  frozen="bfloat16",
  optimizer=AdamW(
    peak=2e-4, schedule=Schedule("cosine", warmup=30), weight_decay=0.0
  ),
  steps=600,
  batch_size=16,
  microbatches=4,
  checkpoints=Checkpoints(every=100),
  validation=Validation(every=100, batches=0, baselines=False),
  samples=Samples(
    every=200,
    prompts=("A pen costs 3 dollars. What do 7 pens cost?",),
    max_new_tokens=128,
    sampler=Sampler(temperature=0.0),
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
