r"""Llama 3 70B from scratch on text of your own, on a pod of TPU v5p.

Shape, learning rate and batch in tokens are the paper's (arXiv:2407.21783,
table 3 and section 3.4), as in `pretrain_llama3_8b`. The released model has
read 15 trillion tokens, 7 million hours of H100, and reaches 79.3 on MMLU with
5 examples (its model card); 100,000 steps are 419 billion tokens.

  python -m experiments.pretrain_llama3_70b train \
      --data.sources.0.paths='fineweb_edu/*.parquet'

100,000 steps are 2e23 flops: 256 chips (v5p-512) compute for 5 weeks at 55% of
their peak, about 900,000 dollars. Not run here:
`plan --topology=v5p-512` says what it needs.
"""

import dataclasses

from experiments import pretrain_llama3_8b
from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.models import presets
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  pretrain_llama3_8b.EXPERIMENT,
  model=dataclasses.replace(presets.llama3_70b(), remat="full"),
  optimizer=AdamW(
    peak=1.5e-4, schedule=Schedule("cosine", warmup=8000), weight_decay=0.1
  ),
  steps=100_000,
  checkpoints=Checkpoints(every=250),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
