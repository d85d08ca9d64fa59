"""Answers as spans of a text, or none: what arguments does a function have.

Questions as of SQuAD v2.0 (Rajpurkar et al. 2018, arXiv:1806.03822) about three
functions of the standard library with their first lines of documentation; half
of the questions are about a function that is not there. BERT's way (Devlin et
al. 2018, arXiv:1810.04805, section 4.3), from nothing. Needs no download.

  python -m experiments.squad_bert_stdlib train
  python -m experiments.squad_bert_stdlib evaluate

A laptop's CPU (4 cores). Not run to its end yet: after 391 of its 1000 steps an
exact match of 50.3% on held-out questions, 52.0% of the best threshold, where
telling no answer to any has 50.0%. By then it knows where arguments stand, and
not yet whose: a loss of 1.19, near that of none or one of three, ln(12) / 2 =
1.24.
"""

import dataclasses

from experiments import pretrain_tiny_stdlib
from llm_jax import cli
from llm_jax.data.passages import Passages
from llm_jax.experiment import Samples, Validation
from llm_jax.models import presets
from llm_jax.objectives.spans import Spans
from llm_jax.tokenizers.sentencepiece import SentencePiece
from llm_jax.training.optimizers import Muon
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  pretrain_tiny_stdlib.EXPERIMENT,
  model=dataclasses.replace(
    presets.tiny(), num_layers=3, sees="all", outputs=2, output_bias=True
  ),
  objective=Spans(),
  tokenizer=SentencePiece(vocab_size=1024),
  data=Passages(length=192, overlap=64, question=32, none_at="first"),
  optimizer=Muon(
    peak=2e-3, schedule=Schedule("cosine", warmup=50), weight_decay=0.1
  ),
  steps=1000,
  batch_size=32,
  validation=Validation(every=250, batches=10, baselines=False),
  samples=Samples(every=0),  # it tells of a text, and does not go on
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
