"""Where a token stands: rotary embeddings, and relative distances.

Dimension key: B sequences; T positions; N heads; H head width.
"""

from collections.abc import Sequence
import math

import jax
import jax.numpy as jnp


def rope_frequencies(
  head_dim: int,
  theta: float,
  *,
  kind: str = "llama3",
  factor: float = 1.0,
  low_factor: float = 1.0,
  high_factor: float = 4.0,
  original_length: int = 8192,
  stretched: Sequence[float] = (),
) -> list[float]:
  """Radians a position, one per pair of dims. arXiv:2104.09864, section 3.2.2.

    f_i = theta^(-2 i / H)

  With `factor` > 1 wavelengths are stretched by it. Linear: all of them
  (arXiv:2306.15595). Llama 3.1 (arXiv:2407.21783): those longer than
  original_length / low_factor, while those shorter than original_length /
  high_factor are kept, and those between are interpolated by turns. YaRN
  (arXiv:2309.00071, section 3.2) interpolates between the same two by dims.
  LongRoPE (arXiv:2402.13753) stretches each by its own of `stretched`.
  """
  frequencies = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
  if kind == "longrope":
    return [f / by for f, by in zip(frequencies, stretched, strict=True)]
  if factor == 1.0:
    return frequencies
  if kind == "linear":
    return [f / factor for f in frequencies]
  if kind == "yarn":
    # The dims, as fractions of i, whose waves turn so often in the original.
    place = lambda turns: (
      head_dim
      * math.log(original_length / (turns * 2 * math.pi))
      / (2 * math.log(theta))
    )
    low = max(math.floor(place(high_factor)), 0)
    high = min(math.ceil(place(low_factor)), head_dim - 1)
    kept = [
      1 - min(max((i - low) / max(high - low, 0.001), 0), 1)
      for i in range(head_dim // 2)
    ]
  else:
    turns = [original_length * f / (2 * math.pi) for f in frequencies]
    kept = [
      min(max((t - low_factor) / (high_factor - low_factor), 0), 1)
      for t in turns
    ]
  return [
    f * (k + (1 - k) / factor) for f, k in zip(frequencies, kept, strict=True)
  ]


def rope_sharpness(kind: str, factor: float, original_length: int) -> float:
  """What rotated queries and keys are times.

  YaRN: arXiv:2309.00071, eq. 15. LongRoPE: arXiv:2402.13753, section 4.2:
  sqrt(1 + ln factor / ln original_length).
  """
  if kind == "yarn" and factor != 1.0:
    return 0.1 * math.log(factor) + 1.0
  if kind == "longrope" and factor > 1.0:
    return math.sqrt(1.0 + math.log(factor) / math.log(original_length))
  return 1.0


def relative_bucket(
  distance: jax.Array, buckets: int, furthest: int, both_ways: bool
) -> jax.Array:
  """Which bucket a key is in, by its position less the query's.

  T5, arXiv:1910.10683, section 2.1: half of the buckets are of one distance
  each, the others grow with its logarithm up to `furthest`, and all that is
  further is in the last. With `both_ways` earlier and later keys have half of
  them each; else all later ones are at distance 0.
  """
  first = jnp.zeros_like(distance)
  if both_ways:
    buckets //= 2
    first = jnp.where(distance > 0, buckets, 0)
    away = jnp.abs(distance)
  else:
    away = jnp.maximum(-distance, 0)
  exact = buckets // 2
  # In float32, as published weights were trained with: a distance of a power
  # may be in the bucket below.
  ratio = jnp.log(jnp.maximum(away, 1).astype(jnp.float32) / exact)
  ratio = ratio / math.log(furthest / exact) * (buckets - exact)
  wide = jnp.minimum(exact + ratio.astype(jnp.int32), buckets - 1)
  return first + jnp.where(away < exact, away, wide)


def local_biases(
  buckets: int, furthest: int, both_ways: bool, num_heads: int
) -> jax.Array:
  """What buckets of distances add where each head looks less far, [P, N].

    -slope_n d,  slope_n = 2^(-8 n / N), n = 1 .. N,  d the bucket's least

  ALiBi, Press et al. 2022, arXiv:2108.12409, section 3.
  """
  away = jnp.arange(-furthest, furthest + 1)
  bucket = relative_bucket(away, buckets, furthest, both_ways)
  least_P = jnp.full(buckets, furthest).at[bucket].min(jnp.abs(away))
  slope_N = 2.0 ** (-8 * jnp.arange(1, num_heads + 1) / num_heads)
  return -least_P[:, None] * slope_N


def rope_tables(
  position_BT: jax.Array,
  frequencies: list[float],
  dtype: jnp.dtype,
  sharpness: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Cos and sin of every angle, shapes B T 1 H/2 (B may be 1).

  Both are times `sharpness`.

  Angles are computed in float32 or wider whatever `dtype` is.
  """
  wide = jnp.promote_types(dtype, jnp.float32)
  angle = position_BT[..., None, None].astype(wide) * jnp.asarray(
    frequencies, wide
  )
  cos, sin = jnp.cos(angle) * sharpness, jnp.sin(angle) * sharpness
  return cos.astype(dtype), sin.astype(dtype)


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Turns each pair (x_i, x_{i + H/2}) by its angle.

  Halves, not neighbours, form the pairs: the ecosystem's convention for
  Llama-like weights, a fixed permutation of the paper's. Where there are fewer
  angles than pairs, the last dims of x stay as they are (arXiv:2204.06745).
  """
  turned, rest = jnp.split(x_BTNH, [2 * cos.shape[-1]], axis=-1)
  a, b = jnp.split(turned, 2, axis=-1)
  parts = [a * cos - b * sin, b * cos + a * sin, rest]
  return jnp.concatenate(parts, axis=-1)
