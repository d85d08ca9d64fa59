"""The smallest thing that trains: a vector, pulled to the rows it sees."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.contracts import Objective
from llm_jax.ops.metrics import Mean
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Quadratic(Objective):
  """Mean of |w - x_b|^2; with `noise`, of w moved by the step's key."""

  noise: float = 0.0

  def weigh(self, batch):
    rows = len(batch["x_BD"])
    return {**batch, "weight_B": jnp.full(rows, 1 / rows)}

  def loss(self, forward, roles, batch, key):
    w_D = roles["policy"]["w_D"]
    w_D = w_D + self.noise * jax.random.normal(key, w_D.shape)
    value_B = ((w_D - batch["x_BD"]) ** 2).sum(-1)
    metrics = {"far": Mean.of(value_B)}
    return (batch["weight_B"] * value_B).sum(), metrics


class Rows:
  """Batch g is drawn from g. Steps in `bad` hold an infinity."""

  def __init__(self, bad=(), end=None):
    self.done, self.bad, self.end = 0, bad, end

  def next(self, state):
    if self.done == self.end:
      raise StopIteration
    self.done += 1
    x_BD = np.random.default_rng(self.done).normal(size=(4, 3))
    if self.done in self.bad:
      x_BD[0, 0] = np.inf
    return {"x_BD": x_BD.astype(np.float32)}

  def get_state(self):
    return {"done": self.done}

  def set_state(self, saved):
    self.done = saved["done"]


@functools.cache
def make(noise=0.0, average=None):
  """(state before the first step, its compiled step)."""
  settings = AdamW(0.1, Schedule("linear", warmup=2), 1.0, 0.1)
  optimizer = settings.make(10, {"policy": {"w_D": "D"}})
  create = lambda: state_lib.create(
    {"policy": {"w_D": jnp.arange(3.0)}},
    lambda path: True,
    optimizer,
    jax.random.key(7),
    average=average is not None,
  )
  step = functools.partial(
    step_lib.train_step,
    objective=Quadratic(noise),
    forward={},
    optimizer=optimizer,
    average_decay=average,
  )
  return create, jax.jit(step, donate_argnums=0)
