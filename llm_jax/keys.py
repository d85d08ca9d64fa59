"""Named random streams: same inputs, same key, on any host."""

import zlib

import jax


def stream(key: jax.Array, name: str, step: jax.Array | int = 0) -> jax.Array:
  """The key for purpose `name` at `step`.

  The root key is never split or advanced, so nothing about randomness has to
  be restored except the root and the step.
  """
  named = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return jax.random.fold_in(named, step)
