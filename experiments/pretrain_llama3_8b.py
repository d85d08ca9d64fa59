r"""Llama 3 8B from scratch on text of your own.

Shape, learning rate, warm-up and batch in tokens are the paper's
(arXiv:2407.21783, section 3.4 and table 3): rows of 8,192 tokens in which
documents do not see each other, 4 million tokens a step. The released model
has read 15 trillion tokens, 1.46 million hours of H100, and reaches 66.7 on
MMLU with 5 examples (its model card); 40,000 steps are 168 billion, what
arXiv:2203.15556 finds best for this size, and reach less.

  python -m experiments.pretrain_llama3_8b train \
      --data.sources.0.paths='fineweb_edu/*.parquet'

40,000 steps are 9e21 flops, attention causal: at 55% of their peak 6 days of
64 TPU v5p (v5p-128), or 3 of 128; about 40,000 dollars. Not run here:
`plan --topology=v5p-128` says what it needs.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.files import Files
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  model=dataclasses.replace(presets.llama3_8b(), remat="full"),
  tokenizer=SentencePiece(vocab_size=128_256),
  data=Text(
    sources=(Files(),), length=8192, packing="best_fit", validation=0.0005
  ),
  optimizer=AdamW(
    peak=3e-4, schedule=Schedule("cosine", warmup=8000), weight_decay=0.1
  ),
  mesh=MeshShape(data=1, fsdp=-1),
  steps=40_000,
  batch_size=512,
  microbatches=2,
  checkpoints=Checkpoints(every=500),
  validation=Validation(every=500, batches=4, questions=0, baselines=False),
  samples=Samples(every=2000, prompts=("The",), max_new_tokens=128),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
