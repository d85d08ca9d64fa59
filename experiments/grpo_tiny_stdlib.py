"""GRPO of the small decoder with a rule as its reward.

Needs no download: the prompts show a docstring of the running interpreter's
standard library and ask for the signature of its function. An answer is worth
1 if Python parses it, else 0: what a language model may not be trusted with, a
rule says for sure. GRPO (arXiv:2402.03300), from the tuned model.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train
  python -m experiments.grpo_tiny_stdlib train

A laptop's CPU (4 cores), a few minutes. Expect 98% of answers to held-out
prompts to parse after 80% (three seeds, 0.9), 1.1 nats a completion from the
tuned model.
"""

import dataclasses

from experiments import ppo_tiny_stdlib
from llm_jax import cli
from llm_jax.data.instructions import Instructions
from llm_jax.data.stdlib_tasks import StdlibTasks
from llm_jax.experiment import Validation
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.rules import Python
from llm_jax.models import presets
from llm_jax.objectives import group
from llm_jax.ops.sampling import Sampler

EXPERIMENT = dataclasses.replace(
  ppo_tiny_stdlib.EXPERIMENT,
  model=presets.tiny(),
  objective=group.grpo(8),
  data=Instructions(
    sources=(StdlibTasks(("signature",)),), length=128, too_long="drop"
  ),
  judge=Python(around="def f{}: pass"),
  # In so few steps what packing saves would not pay for what it compiles.
  rollouts=Rollouts(
    batch=64,
    max_prompt=96,
    max_new_tokens=32,
    packing=0,
    sampler=Sampler(),
  ),
  value_from=None,
  validation=Validation(every=40, batches=2, best_of=4),
  evaluations=(),
  judges=(),
  batch_size=64,
  steps=80,
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
