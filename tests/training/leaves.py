"""Leaves of every kind of placement, their gradients, and steps on them."""

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.training.schedules import Schedule

SUFFIXES = {
  "out": "LNHD",
  "query": "LDNH",
  "query_bias": "LNH",
  "scale": "LD",
  "table": "WE",
  "up": "LDF",
}
SIZES = {"L": 13, "D": 8, "N": 2, "H": 4, "F": 12, "W": 10, "E": 8}
RATES = [0.05, 0.1, 0.1, 0.1]  # of SCHEDULE, by step
SCHEDULE = Schedule("constant", warmup=2)


def draw(seed, scale=1.0):
  r = np.random.default_rng(seed)
  return {
    name: scale * r.normal(size=[SIZES[letter] for letter in suffix])
    for name, suffix in SUFFIXES.items()
  }


PARAMS = draw(0)
GRADS = [draw(i, scale=0.001 * 10**i) for i in range(1, 5)]


def ours(settings, params=PARAMS, grads=GRADS, suffixes=SUFFIXES):
  """Parameters after a step on each of `grads`, float64."""
  with jax.enable_x64(True):
    chain = settings.make(100, suffixes)

    @jax.jit
    def step(params, state, g):
      updates, state = chain.update(g, state, params)
      return jax.tree.map(jnp.add, params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    state = chain.init(params)
    for g in grads:
      params, state = step(params, state, g)
  return jax.tree.map(np.asarray, params)
