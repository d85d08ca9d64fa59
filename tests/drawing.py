"""The smallest runs that learn from what they draw."""

import contextlib
import dataclasses
import pathlib
from unittest import mock

import jax
import numpy as np

from llm_jax import asking, build, trees, weights
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


LIVELY = """
def score(prompt, completion, reference):
  return sum(map(ord, completion)) % 17 / 7 - 1
"""


def lively(home: pathlib.Path):
  """A judge of text that is none, whose scores are of all sizes."""
  (home / "lively.py").write_text(LIVELY)
  return Function(f"{home}/lively.py:score")


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
    rollouts=Rollouts(
      batch=16,
      epochs=2,
      max_new_tokens=8,
      max_prompt=24,
      widths=1,
      packing=0,
    ),
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


# As many as let completions of eight bytes come to an end and not.
STOPS = tuple(range(0, 256, 8))


@contextlib.contextmanager
def begun(home: pathlib.Path, its):
  """A run before its first step, as `build.Run`, in float64.

  Its weights are the same on every mesh; every eighth byte is a stop id.
  """
  its = dataclasses.replace(
    its,
    model=dataclasses.replace(its.model, dtype="float64"),
    log=dataclasses.replace(its.log, tensorboard=False),
    validation=dataclasses.replace(its.validation, every=0),
  )
  mesh = mesh_lib.make(its.mesh)
  with (
    jax.enable_x64(True),
    jax.set_mesh(mesh),
    mock.patch.object(weights, "_base", _base),
    mock.patch.object(asking, "stop_ids", lambda *_: STOPS),
  ):
    run = build.run(its, home / "run", mesh)
    try:
      yield its, run
    finally:
      run.metrics.close(None, None, None)


def _base(experiment, plan, mesh):
  """Drawn by numpy, wide; in the place of `init_from`."""
  r = np.random.default_rng(0)

  def draw(path, x):
    around = 1.0 if trees.path_string(path).endswith("scale") else 0.0
    return jax.device_put(around + 0.3 * r.normal(size=x.shape), x.sharding)

  return jax.tree_util.tree_map_with_path(draw, plan.base)
