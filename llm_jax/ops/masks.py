"""Which position may look at which.

Dimension key: B sequences; T query positions; S key positions.
"""

import jax
import jax.numpy as jnp

# Segments of keys that are no document's.
NOBODY, EVERYONE = -1, -2


def attention_mask(
  query_segment_BT: jax.Array,
  key_segment_BS: jax.Array,
  query_position_BT: jax.Array,
  key_position_BS: jax.Array,
  window: int | None = None,
  *,
  later: bool = False,
  prefix_BS: jax.Array | None = None,
) -> jax.Array:
  """True where a query may see a key: same document, not later, near enough.

  Args:
    query_segment_BT: document number of each query, 0 = padding.
    key_segment_BS: likewise for keys; `EVERYONE` is seen from all documents
      and at any distance, `NOBODY` from none.
    query_position_BT: place within the document.
    key_position_BS: likewise for keys.
    window: a query sees itself and the window - 1 positions before it; None
      for all of them.
    later: later positions are seen, too, and with a window those that are
      window // 2 away on either side, but no further.
    prefix_BS: keys that are part of a prompt, which all queries of that prompt
      see. Queries are the last T of the S positions then.

  Returns:
    mask_B1TS, bool.
  """
  distance_BTS = query_position_BT[:, :, None] - key_position_BS[:, None, :]
  shared_B1S = key_segment_BS[:, None, :] == EVERYONE
  near_BTS = query_segment_BT[:, :, None] == key_segment_BS[:, None, :]
  if later:
    if window is not None:
      near_BTS &= jnp.abs(distance_BTS) <= window // 2
    return (near_BTS | shared_B1S)[:, None]
  if window is not None:
    near_BTS &= distance_BTS < window
  before_BTS = distance_BTS >= 0
  if prefix_BS is not None:
    T = query_position_BT.shape[1]
    before_BTS |= prefix_BS[:, -T:, None] & prefix_BS[:, None, :]
  return (before_BTS & (near_BTS | shared_B1S))[:, None]
