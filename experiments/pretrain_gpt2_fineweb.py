r"""GPT-2 124M on 10 billion tokens of FineWeb, the recipe with a public log.

Shape and optimiser are GPT-2's (Radford et al. 2019) and GPT-3's of this size
(arXiv:2005.14165, table 2.1), steps and schedule those of llm.c, whose log
reaches 3.2722 nats a token on held-out FineWeb after 19,560 steps of 524,288
tokens (github.com/karpathy/llm.c/discussions/481). Expect 3.28 or less; seeds
differ by about 0.002.

The text is 10 billion tokens of FineWeb (arXiv:2406.17557) as ids of GPT-2's
tokenizer, little-endian u16, in one file. Shards in llm.c's format begin with
1,024 bytes that are no ids; the last 10 million ids are held out:

  for f in fineweb_train_*.bin fineweb_val_*.bin; do tail -c +1025 $f; done \
      > fineweb.bin
  python -m experiments.pretrain_gpt2_fineweb train --data.path=fineweb.bin

8.8e18 flops, attention in full: 45 minutes of 8 H100 at 40% of their peak, 2
hours of 16 TPU v5e at 40%. About 20 dollars either way. Not run here yet;
`plan --topology=v5e-16` says what it needs.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.arrays import Arrays
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  # Rows of the table up to the next multiple of 128, which no id names.
  model=dataclasses.replace(presets.gpt2_124m(), vocab_size=50_304),
  tokenizer=Bytes(),  # data are ids already, of a tokenizer that is not here
  data=Arrays(length=1024, validation=0.001),
  optimizer=AdamW(
    peak=6e-4,
    b2=0.95,
    schedule=Schedule("cosine", warmup=700, floor=0.0),
    weight_decay=0.1,
  ),
  mesh=MeshShape(data=-1),
  steps=19_560,
  batch_size=512,
  microbatches=2,
  checkpoints=Checkpoints(every=1000),
  validation=Validation(every=250, batches=20, questions=0, baselines=False),
  samples=Samples(every=0),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
