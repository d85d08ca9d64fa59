"""A number that changes with any bit of an array."""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import trees


def checksum(x: jax.Array) -> jax.Array:
  """Sum of the bits, mixed and each by its place, modulo 2^32: u32[].

  Unmixed, two signs that change would cancel: each adds 2^31.
  """
  if jnp.issubdtype(x.dtype, jnp.floating):
    width = min(x.dtype.itemsize, 4)
    x = jax.lax.bitcast_convert_type(x, f"uint{8 * width}")
  bits = x.astype(jnp.uint32)
  bits = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D)
  for dim, n in enumerate(x.shape):
    shape = [n if d == dim else 1 for d in range(x.ndim)]
    place = jnp.arange(n, dtype=jnp.uint32).reshape(shape)
    bits = bits * (place * jnp.uint32(2654435761) * 2 + 1)
  return bits.sum(dtype=jnp.uint32)


def checksums(tree: Any) -> dict[str, int]:
  """{path: a number that changes with any bit of the leaf}."""
  leaves = {path: x for path, x in trees.paths(tree) if x.size}
  sums = jax.device_get(_checksums(leaves))
  return {path: int(sums[path]) for path in leaves}


@jax.jit
def _checksums(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {path: checksum(x) for path, x in leaves.items()}
