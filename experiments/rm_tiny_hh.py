"""A small reward model on real human preferences.

Which of two answers in a dialogue is the less harmful one, as people judged
it: pairs of HH-RLHF (arXiv:2204.05862). Bradley-Terry with centred rewards
(arXiv:2312.09244). The data are red-teaming material: offensive by nature.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train
  python -m experiments.rm_tiny_hh train --data.sources.0.paths=FILE.jsonl.gz
  python -m experiments.rm_tiny_hh evaluate --validation.split=test

A laptop's CPU (4 cores), about ten minutes. Expect it to be right on 58% of
held-out pairs (55, 56 and 62 with three seeds, of the first 1,800 of the test
split; the longer answer is right on 45%): two million weights that have read
nothing but a programming language's documentation learn little about harm from
a thousand pairs. `rm_llama3_hh` is the real thing.
"""

import dataclasses

from experiments import rm_tiny_stdlib
from llm_jax import cli
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences

EXPERIMENT = dataclasses.replace(
  rm_tiny_stdlib.EXPERIMENT,
  data=Preferences(
    sources=(PreferenceFiles(faulty="drop"),),
    length=512,
    too_long="drop",
    validation=0.1,
    test=0.2,
  ),
  optimizer=dataclasses.replace(rm_tiny_stdlib.EXPERIMENT.optimizer, peak=5e-4),
  steps=135,  # an epoch of 1,100 pairs; a second one is learned by heart
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
