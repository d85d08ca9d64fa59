"""States to save, and how two are told apart."""

import jax
import jax.numpy as jnp
import numpy as np


def state(seed=0):
  """Every kind of leaf that a run's state holds, odd numbers among them."""
  r = np.random.default_rng(seed)
  odd = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
  return {
    "step": jnp.int32(seed),
    "weights": {
      "f32": jnp.asarray(r.normal(size=(8, 16)).astype(np.float32)),
      "bf16": jnp.asarray(r.normal(size=(16, 8)), jnp.bfloat16),
      "odd": jnp.asarray(odd),
      "frozen": None,
    },
    "moments": (jnp.asarray(r.integers(0, 99, 7).astype(np.uint8)), [None]),
    "key": jax.random.key(seed + 17),
  }


def abstract(tree, sharding=None):
  """The tree as shapes, all placed alike."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding or x.sharding
    ),
    tree,
  )


def bits(tree):
  """Leaves as (type, shape, bytes)."""

  def one(x):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      return str(x.dtype), x.shape, np.asarray(jax.random.key_data(x)).tobytes()
    return str(x.dtype), x.shape, np.asarray(x).tobytes()

  return jax.tree.map(one, tree)
