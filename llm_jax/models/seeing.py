"""What the queries of a stack see, and where they stand.

Dimension key: B sequences; T query positions; S key positions; N query heads;
P buckets of distances.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llm_jax.contracts import Batch
from llm_jax.models import kernels
from llm_jax.models.config import TransformerConfig
from llm_jax.ops import positions


class Sight(NamedTuple):
  """How a query sees: rotary tables, and a mask unless plain causal."""

  cos: jax.Array | None
  sin: jax.Array | None
  mask_B1TS: jax.Array | None = None


class Source(NamedTuple):
  """What an encoder made of a source, and who sees it.

  None where a cache has its keys and values already.
  """

  x_BSD: jax.Array | None
  mask_B1TS: jax.Array


class Context(NamedTuple):
  """What every layer shares: how it sees, whole and through the window.

  Where all layers are alike there is `whole` only. Of rows of several
  documents `segment_BT` says the same as the mask, together with the window;
  `shared` is there where some keys are everyone's. What is told of routing is
  told of the tokens of `real_BT`, None = all.
  """

  whole: Sight
  near: Sight | None = None
  segment_BT: jax.Array | None = None
  shared: jax.Array | None = None
  real_BT: jax.Array | None = None
  bias_BNTS: jax.Array | None = None
  source: Source | None = None

  def kind(self, sees: str) -> kernels.Kind:
    """What sort of mask it is."""
    if sees != "before" or self.bias_BNTS is not None:
      return "other"
    if self.whole.mask_B1TS is None:
      return "causal"
    if self.segment_BT is None:
      return "other"
    return "packed" if self.shared is None else "shared"


def context(
  config: TransformerConfig,
  at_BT: jax.Array,
  see: Callable[[int | None], jax.Array | None],
  places: tuple[jax.Array, jax.Array],
  distances_PN: jax.Array | None,
) -> Context:
  """How the layers see.

  Args:
    config: of the stack.
    at_BT: positions of queries.
    see: the mask that a window gives.
    places: of queries and of keys, whose differences are distances; one row
      where all rows have the same.
    distances_PN: what each bucket of distances adds, if positions are relative.
  """
  c = config

  def sight(theta: float | None, window: int | None) -> Sight:
    tables = _tables(
      c, at_BT, c.rope_theta if theta is None else theta, scaled=theta is None
    )
    return Sight(*tables, see(window))

  far, near, bias_BNTS = None, None, None
  if c.window is None or c.full_layers:
    far = sight(None, None)
  if c.window is not None:
    near = sight(c.window_theta, c.window)
  if distances_PN is not None:
    query_BT, key_BS = places
    bucket_BTS = positions.relative_bucket(
      key_BS[:, None, :] - query_BT[:, :, None],
      c.relative_buckets,
      c.relative_distance,
      c.sees == "all",
    )
    bias_BNTS = distances_PN[bucket_BTS].transpose(0, 3, 1, 2)
  if far is None:
    assert near is not None
    return Context(near, bias_BNTS=bias_BNTS)
  return Context(far, near, bias_BNTS=bias_BNTS)


def _tables(
  config: TransformerConfig, at_BT: jax.Array, theta: float, scaled: bool
) -> tuple[jax.Array | None, jax.Array | None]:
  """Cosines and sines of rotary positions, where there are any.

  LongRoPE has factors for short and for long contexts. Which of them is asked
  of the model's own length alone, and so the same in training and at each token
  that is drawn (transformers asks it of the row that is read).
  """
  if config.positions != "rope":
    return None, None
  s = config.rope_scaling
  kind, factor = (s.kind, s.factor) if scaled else ("linear", 1.0)
  is_long = config.max_length > s.original_length
  frequencies = positions.rope_frequencies(
    config.rotated,
    theta,
    kind=kind,
    factor=factor,
    stretched=s.long_factors if is_long else s.short_factors,
    low_factor=s.low_factor,
    high_factor=s.high_factor,
    original_length=s.original_length,
  )
  sharpness = positions.rope_sharpness(kind, factor, s.original_length)
  if scaled and s.sharpness is not None:
    sharpness = s.sharpness
  return positions.rope_tables(
    at_BT, frequencies, jnp.dtype(config.dtype), sharpness
  )


def completions(batch: Batch) -> jax.Array | None:
  """Segments of rows of one completion each, what follows it being padding.

  None of other rows. A decoder does not see what follows.
  """
  if "prompt_BT" not in batch or "mask_BT" not in batch:
    return None
  told_BT = (batch["prompt_BT"] | batch["mask_BT"]).astype(jnp.int32)
  return jax.lax.cummax(told_BT, axis=1, reverse=True)


def prompts(
  prompt_BT: jax.Array | None, segment_BT: jax.Array | None, virtual: int
) -> jax.Array | None:
  """Tokens of the prompt that a document begins with; None if nothing says so.

  A later prompt is not among them: it has read what was answered before, and
  would tell it to who has to say it.

  Args:
    prompt_BT: True where the next token is part of a prompt.
    segment_BT: documents, of virtual tokens before the row's, too.
    virtual: so many; they are part of none.
  """
  if prompt_BT is None:
    return None
  answered_BT = jnp.pad(~prompt_BT, ((0, 0), (virtual, 0))).astype(jnp.int32)
  at_T = jnp.arange(answered_BT.shape[1])
  first_BT = (at_T == virtual)[None]
  if segment_BT is not None:
    left_BT = jnp.pad(segment_BT, ((0, 0), (1, 0)))[:, :-1]
    first_BT |= left_BT != segment_BT
  before_BT = jnp.cumsum(answered_BT, 1) - answered_BT
  here_BT = jax.lax.cummax(jnp.where(first_BT, before_BT, 0), axis=1)
  return (before_BT == here_BT) & (at_T >= virtual)
