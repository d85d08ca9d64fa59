"""Training steps of llm_jax on the shapes of `shapes`. Prints a JSON object."""

import dataclasses
import functools
import json
import math
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.shapes import SHAPES
from llm_jax import axes, host
from llm_jax.models import transformer
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.causal import Causal
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule


def prepare(arguments: list[str]) -> tuple:
  """(compiled step, state, batches, seconds to compile).

  Args:
    arguments: a shape's name, then settings of the model as name=value.
  """
  host.keep_memory()
  s = SHAPES[arguments[0]]
  config = TransformerConfig(
    num_layers=s.layers,
    embed_dim=s.width,
    mlp_dim=4 * s.width,
    num_heads=s.heads,
    vocab_size=s.vocab,
    max_length=s.context,
    norm="layer",
    norm_bias=s.bias,
    positions="learned",
    activation="gelu",
    qkv_bias=s.bias,
    out_bias=s.bias,
    mlp_bias=s.bias,
    unroll=0,
    dtype="bfloat16" if jax.default_backend() == "gpu" else "float32",
  )
  for change in arguments[1:]:
    key, value = change.split("=")
    kind = type(getattr(config, key))
    config = dataclasses.replace(config, **{key: kind(value)})
  module = transformer.Decoder(config)
  looped = transformer.Decoder(dataclasses.replace(config, unroll=1))
  key = jax.random.key(0)
  boxed = jax.eval_shape(module.init, key, jnp.zeros((1, 1), jnp.int32))
  optimizer = AdamW(
    peak=1e-3, b2=0.99, weight_decay=0.1, schedule=Schedule("constant", 0)
  ).make(100, {"policy": axes.suffixes(boxed)})

  def score(variables, batch, *, key=None, entropy=False, hits=False):
    return module.apply(
      variables, batch, entropy=entropy, hits=hits, method="score"
    )

  @jax.jit
  def init(key):
    roles = {"policy": axes.unbox(looped.init(key, jnp.zeros((1, 1), int)))}
    return state_lib.create(roles, lambda p: True, optimizer, key)

  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=Causal(),
      forward={"policy": score},
      optimizer=optimizer,
    ),
    donate_argnums=0,
  )
  r = np.random.default_rng(0)
  ids = r.integers(0, s.vocab, (16, s.batch, s.context + 1), np.int32)
  mask = np.ones((s.batch, s.context), bool)
  batches = jax.device_put(
    [
      {"tokens_BT": x[:, :-1], "target_BT": x[:, 1:], "mask_BT": mask}
      for x in ids
    ]
  )
  state = jax.block_until_ready(init(key))
  start = time.perf_counter()
  compiled = step.lower(state, batches[0]).compile()
  return compiled, state, batches, time.perf_counter() - start


def main() -> None:
  """Arguments: shape, steps, then settings of the model as name=value."""
  steps = int(sys.argv[2])
  compiled, state, batches, first = prepare([sys.argv[1], *sys.argv[3:]])
  for i in range(3):
    state, metrics = compiled(state, batches[i])
    jax.block_until_ready(metrics)
  wall, cpu = time.perf_counter(), time.process_time()
  for i in range(steps):
    before = metrics
    state, metrics = compiled(state, batches[i % len(batches)])
    before["loss"].compute()  # one step late, as the training loop does
  last = metrics["loss"].compute()
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  usage = resource.getrusage(resource.RUSAGE_SELF)
  assert math.isfinite(last)
  print(
    json.dumps(
      {
        "side": "llm_jax",
        "wall_ms": 1e3 * wall / steps,
        "cpu_ms": 1e3 * cpu / steps,
        "first_s": first,
        "peak_mib": usage.ru_maxrss / 1024,
        "loss": last,
        "temp_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "parameters": sum(x.size for x in jax.tree.leaves(state.trainable)),
        "version": f"jax {jax.__version__}",
      }
    )
  )


if __name__ == "__main__":
  main()
