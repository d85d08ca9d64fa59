"""Who counts, and how much: loss weights for a whole global batch.

Every loss is `sum(weight * value)`. Dividing happens here, once, before the
batch is cut into microbatches, so microbatches add up exactly.

Dimension key: B sequences; T positions.
"""

import jax
import jax.numpy as jnp


def token_mean(count_BT: jax.Array) -> jax.Array:
  """Each token weighs by its count, alike if that is a mask.

  Weights sum to 1, or to 0 where nothing counts.
  """
  count_BT = count_BT.astype(jnp.result_type(float))
  total = count_BT.sum()
  return count_BT / jnp.where(total > 0, total, 1)


def sequence_mean(
  count_BT: jax.Array, segment_BT: jax.Array | None = None
) -> jax.Array:
  """Each sequence in which something counts weighs the same.

  Weights sum to 1, or to 0 where nothing counts.

  Args:
    count_BT: weights of tokens within a sequence, or a mask.
    segment_BT: sequence of each token in its row, from 1 to T, 0 = none;
      None = a row is one sequence.
  """
  count_BT = count_BT.astype(jnp.result_type(float))
  if segment_BT is None:
    segment_BT = jnp.zeros(count_BT.shape, int)
  num_segments = count_BT.shape[1] + 1
  total_BS = jax.vmap(
    lambda count_T, segment_T: jax.ops.segment_sum(
      count_T, segment_T, num_segments
    )
  )(count_BT, segment_BT)
  total_BT = jnp.take_along_axis(total_BS, segment_BT, axis=1)
  sequences = jnp.maximum((total_BS > 0).sum(), 1)
  return count_BT / jnp.where(total_BT > 0, total_BT, 1) / sequences
