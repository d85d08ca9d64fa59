"""Who counts, and how much: loss weights for a whole global batch.

Every loss is `sum(weight * value)`. Dividing happens here, once, before the
batch is cut into microbatches, so microbatches add up exactly.

Dimension key: B sequences; T positions.
"""

import jax
import jax.numpy as jnp


def token_mean(mask_BT: jax.Array) -> jax.Array:
  """Each unmasked token counts the same. Weights sum to 1."""
  weight_BT = mask_BT.astype(jnp.result_type(float))
  return weight_BT / jnp.maximum(weight_BT.sum(), 1.0)


def sequence_mean(mask_BT: jax.Array) -> jax.Array:
  """Each row with an unmasked token counts the same. Weights sum to 1."""
  weight_BT = mask_BT.astype(jnp.result_type(float))
  tokens_B1 = weight_BT.sum(-1, keepdims=True)
  rows = jnp.maximum((tokens_B1 > 0).sum(), 1)
  return weight_BT / jnp.maximum(tokens_B1, 1.0) / rows
