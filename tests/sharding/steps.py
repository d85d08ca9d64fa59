"""Training steps in float64 on a mesh; also a program for one of several.

python -m tests.sharding.steps OUT.npz PORT NUM_PROCESSES PROCESS_ID
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_jax import axes, trees
from llm_jax.data import batches
from llm_jax.objectives.causal import Causal
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from tests import small

# Every letter that can be cut is cut eight ways: heads, widths, vocabulary.
CONFIG = dataclasses.replace(
  small.CONFIG, num_heads=8, num_kv_heads=8, head_dim=4, mlp_dim=32
)


def plan(mesh, config=CONFIG, batch=None, objective=None, microbatches=1):
  """(jitted step, state on the mesh, batch on the mesh)."""
  batch = small.causal_batch() if batch is None else batch
  model, variables = small.build(config)
  boxed = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
  )
  optimizer = optax.sgd(1.0)
  state = state_lib.create(
    {"policy": variables}, lambda path: True, optimizer, jax.random.key(3)
  )
  boxed_state = jax.eval_shape(
    lambda: state_lib.create(
      {"policy": boxed}, lambda path: True, optimizer, jax.random.key(3)
    )
  )
  placement = axes.shardings(boxed_state, mesh)
  mine = batches.of_block(0, small.DIMS.B, mesh_lib.share(mesh, small.DIMS.B))
  placed = mesh_lib.place({k: v[mine] for k, v in batch.items()}, mesh)
  step = jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=objective or Causal(z_loss=1e-2),
      forward={"policy": small.score_fn(model)},
      optimizer=optimizer,
      microbatches=microbatches,
    ),
    out_shardings=(placement, None),
  )
  state = _put(state, placement)
  return step, state, placed


def _put(state, placement):
  """Whole arrays that every process holds, cut over the mesh."""

  def put(x, sharding):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(put, state, placement)


def run(shape, devices=None, **kwargs):
  """Path -> array: losses, and what one step of slope 1 moved."""
  if not isinstance(shape, mesh_lib.MeshShape):
    shape = mesh_lib.MeshShape(*shape)
  mesh = mesh_lib.make(shape, devices)
  with jax.set_mesh(mesh):
    step, before, batch = plan(mesh, **kwargs)
    after, metrics = step(before, batch)
    gather = jax.jit(
      lambda a, b: jax.tree.map(jnp.subtract, a, b),
      out_shardings=jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec()
      ),
    )
    gradient = gather(before.trainable, after.trainable)
  found = {name: np.asarray(m.compute()) for name, m in metrics.items()}
  found |= {path: np.asarray(x) for path, x in trees.paths(gradient)}
  return found


def main() -> None:
  out, port, processes, process = sys.argv[1], *map(int, sys.argv[2:])
  if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
  with jax.enable_x64(True):
    # In a pod's torus a process may hold rows that are not beside each other.
    devices = [d for pair in zip(*_by_process(), strict=True) for d in pair]
    found = {0: run((2, 2, 2)), 1: run((8, 1, 1), devices)}
    # Positions of a row may lie in several processes.
    ring = dataclasses.replace(CONFIG, context_attention="ring")
    found[2] = run((1, 1, 2, 4), config=ring)
  if process == 0:
    flat = {f"{i}/{k}": x for i, its in found.items() for k, x in its.items()}
    np.savez(out, **flat)


def _by_process():
  half = jax.device_count() // 2
  return jax.devices()[:half], jax.devices()[half:]


if __name__ == "__main__":
  main()
