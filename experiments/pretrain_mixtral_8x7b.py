r"""Mixtral 8x7B from scratch on text of your own.

The shape is the paper's (arXiv:2401.04088, table 1): 46.7 billion parameters in
8 experts a layer, of which each token goes to 2 and meets 12.9 billion. How it
was trained is not told; learning rate, batch and rows are those of
`pretrain_llama3_8b`, the weight of the balance loss that of the released
configuration. The released model reaches 70.6 on MMLU with 5 examples (table
2); 60,000 steps are 252 billion tokens, 20 for each parameter that a token
meets, and reach less.

  python -m experiments.pretrain_mixtral_8x7b train \
      --data.sources.0.paths='fineweb_edu/*.parquet'

60,000 steps are 2.1e22 flops, attention causal: at 45% of their peak 18 days of
64 TPU v5p (v5p-128), or 9 of 128; about 120,000 dollars. Each expert is on
devices of its own, and its kernels cut over all others. Not run here:
`plan --topology=v5p-128` says what it needs.
"""

import dataclasses

from experiments import pretrain_llama3_8b
from llm_jax import cli
from llm_jax.models import presets
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.sentencepiece import SentencePiece

EXPERIMENT = dataclasses.replace(
  pretrain_llama3_8b.EXPERIMENT,
  model=dataclasses.replace(presets.mixtral_8x7b(), remat="full"),
  tokenizer=SentencePiece(vocab_size=32_000),
  mesh=MeshShape(data=1, fsdp=-1, expert=8),
  steps=60_000,
  microbatches=8,
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
