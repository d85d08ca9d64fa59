"""The smallest runs that learn from what they draw."""

import dataclasses
import pathlib

from llm_jax.checkpoints.store import Checkpoints
from llm_jax.data.instructions import Instructions
from llm_jax.experiment import Validation
from llm_jax.generation.rollouts import Rollouts
from llm_jax.judges.function import Function
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule
from tests import command

REWARD = '''
def fraction(prompt, completion, reference):
  """More of the letter e, and a little for the right length."""
  return completion.count("e") / 7 - abs(len(completion) - len(reference)) / 9
'''


def experiment(home: pathlib.Path, **changes):
  """Two updates of four steps; prompts and the reward lie in `home`."""
  (home / "reward.py").write_text(REWARD)
  its = dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(command.EXPERIMENT.model, outputs=1),
    data=Instructions(
      sources=(command.answers(home),),
      length=32,
      validation=0.3,
      cache=str(home / "cache"),
    ),
    objective=PPO(),
    judge=Function(f"{home}/reward.py:fraction"),
    rollouts=Rollouts(batch=16, epochs=2, max_new_tokens=8, max_prompt=24),
    shaping=Shaping(missing_eos="subtract", target=0.1, horizon=100),
    optimizer=AdamW(peak=3e-2, schedule=Schedule("constant", warmup=0)),
    steps=8,
    batch_size=8,
    microbatches=2,
    mesh=mesh_lib.MeshShape(2, 1, 1),
    checkpoints=Checkpoints(every=7),
    validation=Validation(every=8, batches=1, questions=0),
    samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
  )
  return dataclasses.replace(its, **changes)
