"""A recurrent language model on the standard library's own documentation.

An ancestor of the transformer as a baseline: an LSTM (Hochreiter and
Schmidhuber 1997), or with `--model.cell=gru` a GRU (arXiv:1406.1078). Text,
tokenizer and splits are those of `pretrain_tiny_stdlib`; no download.

  python -m experiments.lstm_stdlib train

A laptop's CPU, minutes. Expect about 1.8 bits per byte on the validation split
(1.783 with seed 0; the GRU was not measured), where the transformer of
`pretrain_tiny_stdlib`, of about as many parameters, needs 1.7.
"""

import dataclasses

from experiments import pretrain_tiny_stdlib
from llm_jax import cli
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.training.optimizers import Muon
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  pretrain_tiny_stdlib.EXPERIMENT,
  model=RecurrentConfig(
    num_layers=2, embed_dim=320, norm="rms", max_length=512, dropout=0.1
  ),
  optimizer=Muon(
    peak=1e-2, schedule=Schedule("cosine", warmup=50), weight_decay=0.1
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
