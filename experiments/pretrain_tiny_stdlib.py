"""A small decoder on the standard library's own documentation.

Needs no download: the text is the running interpreter's docstrings and
language reference, 2.4 MB.

  python -m experiments.pretrain_tiny_stdlib train

A laptop's CPU (4 cores), about 5 minutes. Expect about 1.7 bits per byte on
the validation split, as much as the 5-gram model that `evaluate` prints beside
it; a unigram model needs 3.0.
"""

import dataclasses

from llm_jax import cli
from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.stdlib import Stdlib
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment, Samples, Validation
from llm_jax.models import presets
from llm_jax.ops.sampling import Sampler
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training.optimizers import Muon
from llm_jax.training.schedules import Schedule

EXPERIMENT = Experiment(
  # The text is small: without dropout it is soon known by heart.
  model=dataclasses.replace(presets.tiny(), dropout=0.1),
  tokenizer=SentencePiece(kind="bpe", vocab_size=2048),
  data=Text(sources=(Stdlib("docs"),), length=128),
  optimizer=Muon(
    peak=3e-3, schedule=Schedule("cosine", warmup=50), weight_decay=0.1
  ),
  steps=850,
  batch_size=16,
  checkpoints=Checkpoints(every=250),
  validation=Validation(every=250, batches=20),
  samples=Samples(
    every=500,
    prompts=("def open(", "Return the ", "class "),
    max_new_tokens=64,
    sampler=Sampler(temperature=0.8, top_p=0.95),
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
