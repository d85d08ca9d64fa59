"""A reward model on the small decoder.

Needs no download: 13,000 pairs of lines that say what a function of the
running interpreter's standard library does, the right one preferred to another
function's and to itself cut short. Bradley-Terry with centred rewards
(arXiv:2312.09244), from the tuned model with a new head of one output.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train
  python -m experiments.rm_tiny_stdlib train

A laptop's CPU (4 cores), about 15 minutes of one core. Expect it to be right on
82% of held-out pairs (three seeds, 1.1): 90% of those whose right line is the
longer one, 57% of the others. The longer line is right on 75%.
"""

import dataclasses

from experiments import dpo_tiny_stdlib
from llm_jax import cli
from llm_jax.experiment import Samples
from llm_jax.models import presets
from llm_jax.objectives.ranking import Ranking
from llm_jax.training.optimizers import Muon
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  dpo_tiny_stdlib.EXPERIMENT,
  model=dataclasses.replace(presets.tiny(), outputs=1),
  objective=Ranking(center=0.01),
  # What belongs to which function is hardly learned with AdamW in this time.
  optimizer=Muon(
    peak=1e-3, schedule=Schedule("cosine", warmup=30), weight_decay=0.1
  ),
  samples=Samples(every=0),
  evaluations=(),
  steps=1200,
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
