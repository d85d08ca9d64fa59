r"""Llama 3 8B learns which answers people prefer, by DPO on HH-RLHF.

Direct preference optimisation (arXiv:2305.18290) on pairs of dialogues
(arXiv:2204.05862), whose rows have `chosen` and `rejected` with a beginning in
common. Learning rate, batch (64 pairs) and beta are the authors'; AdamW in the
place of their RMSprop. 1,300 steps are two epochs of the harmless half.

  python -m experiments.dpo_llama3_hh train \
      --init_from=runs/sft_llama3_8b_messages \
      --data.sources.0.paths=hh_harmless.jsonl.gz

`--init_from` is the tuned model, which is the reference, too: a run folder,
with the `--data.template` that it was tuned with, or
`hf:Meta-Llama-3-8B-Instruct` with that of the same name. 16 TPU v5p chips or 16
GPUs of 80 GB; not run yet: `plan` says what it needs.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.objectives.dpo import DPO
from llm_jax.sharding.mesh import MeshShape
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=dataclasses.replace(presets.llama3_8b(), remat="dots"),
  objective=DPO(beta=0.1),
  data=Preferences(
    sources=(PreferenceFiles(format="transcript", faulty="drop"),),
    length=1024,
    too_long="drop",
  ),
  optimizer=AdamW(
    peak=5e-7, schedule=Schedule("linear", warmup=150), weight_decay=0.0
  ),
  mesh=MeshShape(data=1, fsdp=-1),
  steps=1300,
  batch_size=128,
  checkpoints=Checkpoints(every=200),
  validation=Validation(every=200, batches=20),
  samples=Samples(
    every=400, prompts=("What are some pranks with a pen?",), max_new_tokens=128
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
