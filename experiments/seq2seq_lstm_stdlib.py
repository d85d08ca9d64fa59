"""A sequence-to-sequence LSTM with attention, on questions about functions.

An ancestor of the encoder-decoder transformer as a baseline: an LSTM reads the
question in both directions, another writes the answer and attends to what was
read (Luong et al. 2015, arXiv:1508.04025); `--model.cell=gru` has GRUs. The
questions are those of `sft_tiny_stdlib`; nothing is pretrained, and no download
is needed.

  python -m experiments.seq2seq_lstm_stdlib train

A laptop's CPU (4 cores), minutes; half an hour on a core that others used, too.
Expect about 2.2 bits per byte on the validation split (2.164 on all of it with
seed 0; the GRU was not measured). Two of 200 answers were the reference's very
words: names and modules of unseen functions are hard to guess at this size.
"""

import dataclasses

from experiments import lstm_stdlib, sft_tiny_stdlib
from llm_jax import cli
from llm_jax.data.instructions import Instructions
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_tasks import StdlibTasks
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)

EXPERIMENT = dataclasses.replace(
  sft_tiny_stdlib.EXPERIMENT,
  model=RecurrentEncoderDecoderConfig(
    num_layers=2, embed_dim=256, max_length=512, dropout=0.1
  ),
  data=Instructions(
    sources=(StdlibTasks(),),
    source=SourceSide(length=192),
    length=64,
    template="plain",
    too_long="drop",
  ),
  optimizer=lstm_stdlib.EXPERIMENT.optimizer,
  init_from=None,
  steps=1000,
  evaluations=(),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
