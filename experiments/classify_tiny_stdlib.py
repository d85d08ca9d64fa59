"""A classifier of answers on the small decoder: does a line fit its function.

Needs no download: the lines of `rm_tiny_stdlib`, each on its own, as two
classes: what a function's docstring says, and another function's line or the
right one cut short. From the tuned model with a new head of two outputs; the
logit of "liked" is its reward, as of any classifier.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train
  python -m experiments.classify_tiny_stdlib train

A laptop's CPU (4 cores), several minutes of one core. Expect it to be right on
about 70% of held-out lines (one seed; the larger class is 51%). It hardly sees
what belongs to which function in this time: on pairs its reward is right on
75%, and so is the longer line.
"""

import dataclasses

from experiments import rm_tiny_stdlib
from llm_jax import cli
from llm_jax.data.preferences import Preferences
from llm_jax.models import presets
from llm_jax.objectives.classification import Classification

EXPERIMENT = dataclasses.replace(
  rm_tiny_stdlib.EXPERIMENT,
  model=dataclasses.replace(presets.tiny(), outputs=2),
  objective=Classification(),
  data=Preferences(
    rows="classes", length=128, packing="best_fit", too_long="drop"
  ),
  steps=500,
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
