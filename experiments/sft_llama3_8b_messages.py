r"""Llama 3 8B becomes an instruct model, on chats of your own.

Rows hold `messages`, each with `role` and `content`. Learning rate and batch
are those that Llama 2's instruct models were tuned with (arXiv:2307.09288,
section 3.1).

  python -m experiments.sft_llama3_8b_messages train \
      --init_from=hf:Meta-Llama-3-8B \
      --data.template=hf:Meta-Llama-3-8B-Instruct \
      --data.sources.0.paths=chats.jsonl

Both are folders as downloaded: the base, and the one whose chat template it is
taught. A run folder that holds a base is one, too. 16 TPU v5p chips or 8 GPUs
of 80 GB; not run yet: `plan` says what it needs.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.sharding.mesh import MeshShape
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=dataclasses.replace(presets.llama3_8b(), remat="dots"),
  data=Instructions(
    sources=(Conversations(format="messages"),), length=4096, too_long="drop"
  ),
  optimizer=AdamW(
    peak=2e-5, schedule=Schedule("cosine", warmup=100), weight_decay=0.1
  ),
  mesh=MeshShape(data=1, fsdp=-1),
  steps=2000,
  batch_size=64,
  microbatches=2,
  checkpoints=Checkpoints(every=250),
  validation=Validation(every=250, batches=20, baselines=False),
  samples=Samples(
    every=500, prompts=("Explain photosynthesis.",), max_new_tokens=256
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
