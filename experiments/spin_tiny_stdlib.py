"""Self-play of the small decoder: its answers against those of the data.

Needs no download: the questions and answers of `sft_tiny_stdlib`. SPIN
(arXiv:2401.01335) on every weight: each answer is preferred to what the model
of an iteration before says to the same question, drawn at each step. The
opponent is the model as it began, and every 50 steps the model of then. With
beta 1 the best that it can become against one opponent is the data; with 0.1,
as for DPO, it goes beyond them and back.

  python -m experiments.pretrain_tiny_stdlib train
  python -m experiments.sft_tiny_stdlib train
  python -m experiments.spin_tiny_stdlib train

A laptop's CPU (4 cores), several minutes. Expect, within an iteration, two of
three answers told from the model's own, and little for the model: held-out
answers at 3.51 nats a token after 3.52, exact answers fewer.
"""

import dataclasses

from experiments import sft_tiny_stdlib
from llm_jax import cli
from llm_jax.data.preferences import Preferences
from llm_jax.data.stdlib_tasks import StdlibTasks
from llm_jax.experiment import Evaluation, SelfPlay, Validation
from llm_jax.objectives.dpo import DPO
from llm_jax.training.optimizers import AdamW
from llm_jax.training.refresh import Refresh
from llm_jax.training.schedules import Schedule

EXPERIMENT = dataclasses.replace(
  sft_tiny_stdlib.EXPERIMENT,
  objective=DPO(beta=1.0),
  data=Preferences(
    sources=(StdlibTasks(),), rows="answers", length=128, too_long="drop"
  ),
  refresh=Refresh(every=50),
  self_play=SelfPlay(max_new_tokens=48),
  optimizer=AdamW(
    peak=2e-4, schedule=Schedule("cosine", warmup=20), weight_decay=0.0
  ),
  init_from="runs/sft_tiny_stdlib",
  steps=150,
  batch_size=32,
  # Just after a refresh every margin is 0.
  validation=Validation(every=25, batches=10, baselines=False),
  evaluations=(
    Evaluation("answers", sft_tiny_stdlib.EXPERIMENT.data),
    *sft_tiny_stdlib.EXPERIMENT.evaluations,
  ),
)

if __name__ == "__main__":
  cli.run(EXPERIMENT)
