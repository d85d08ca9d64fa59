"""Where a token stands: rotary embeddings.

Dimension key: B sequences; T positions; N heads; H head width.
"""

import math

import jax
import jax.numpy as jnp


def rope_frequencies(
  head_dim: int,
  theta: float,
  *,
  factor: float = 1.0,
  low_factor: float = 1.0,
  high_factor: float = 4.0,
  original_length: int = 8192,
) -> list[float]:
  """Radians a position, one per pair of dims. arXiv:2104.09864, section 3.2.2.

    f_i = theta^(-2 i / H)

  With `factor` > 1, wavelengths longer than original_length / low_factor are
  stretched by `factor`, those shorter than original_length / high_factor are
  kept, and those between are interpolated (Llama 3.1, arXiv:2407.21783).
  """
  frequencies = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
  if factor == 1.0:
    return frequencies
  scaled = []
  for f in frequencies:
    turns = original_length * f / (2 * math.pi)  # in the original context
    kept = min(max((turns - low_factor) / (high_factor - low_factor), 0), 1)
    scaled.append(f * (kept + (1 - kept) / factor))
  return scaled


def rope_tables(
  position_BT: jax.Array, frequencies: list[float], dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
  """Cos and sin of every angle, shapes B T 1 H/2 (B may be 1).

  Angles are computed in float32 or wider whatever `dtype` is.
  """
  wide = jnp.promote_types(dtype, jnp.float32)
  angle = position_BT[..., None, None].astype(wide) * jnp.asarray(
    frequencies, wide
  )
  return jnp.cos(angle).astype(dtype), jnp.sin(angle).astype(dtype)


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Turns each pair (x_i, x_{i + H/2}) by its angle.

  Halves, not neighbours, form the pairs: the ecosystem's convention for
  Llama-like weights, a fixed permutation of the paper's.
  """
  a, b = jnp.split(x_BTNH, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
