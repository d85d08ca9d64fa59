"""Logits -> a token, and its log-probability.

Dimension key: B sequences; V vocabulary, in J blocks of I tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from llm_jax.config import field


@dataclasses.dataclass(frozen=True)
class Sampler:
  """How a token is drawn. Filters apply in this order, each to what is left."""

  temperature: float = field(
    1.0, "logits are divided by it; 0 = the most likely token", low=0
  )
  top_k: int = field(0, "keep the k most likely; 0 = all", low=0)
  top_p: float = field(
    1.0,
    "keep the most likely that together reach p (arXiv:1904.09751)",
    low=0,
    high=1,
  )
  min_p: float = field(
    0.0,
    "keep those at least this share of the most likely's probability"
    " (arXiv:2407.01082)",
    low=0,
    high=1,
  )

  @property
  def filters(self) -> bool:
    """Whether some tokens may be ruled out, and others be likelier for it."""
    return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


def filtered(logits_BV: jax.Array, sampler: Sampler) -> jax.Array:
  """Logits after temperature and filters; -inf where a token is ruled out.

  The most likely token always stays. Tokens tied with the last one kept by
  top_k or top_p stay too, so that the order of ids never matters.
  """
  wide = jnp.promote_types(logits_BV.dtype, jnp.float32)
  logits_BV = logits_BV.astype(wide)
  top_B1 = logits_BV.max(-1, keepdims=True)
  # Dividing by a subnormal number is dividing by 0.
  if sampler.temperature < float(jnp.finfo(wide).tiny):
    # Of several most likely tokens, the first.
    first_B1 = jnp.argmax(logits_BV == top_B1, -1, keepdims=True)
    v_V = jnp.arange(logits_BV.shape[-1])
    return jnp.where(v_V == first_B1, 0.0, -jnp.inf).astype(wide)
  # With 0 at the top, a low temperature may overflow to -inf alone.
  logits_BV = (logits_BV - top_B1) / sampler.temperature

  def keep(bound_B1: jax.Array) -> jax.Array:
    return jnp.where(logits_BV >= bound_B1, logits_BV, -jnp.inf)

  if 0 < sampler.top_k < logits_BV.shape[-1]:
    top_BK, _ = jax.lax.top_k(logits_BV, sampler.top_k)
    logits_BV = keep(top_BK[:, -1:])
  if sampler.top_p < 1:
    sorted_BV = jnp.sort(logits_BV, -1, descending=True)
    p_BV = jax.nn.softmax(sorted_BV, -1)
    before_BV = jnp.cumsum(p_BV, -1) - p_BV  # reached without this one
    inside_BV = (before_BV < sampler.top_p).at[:, 0].set(True)
    last_BV = jnp.where(inside_BV, sorted_BV, jnp.inf)
    logits_BV = keep(last_BV.min(-1, keepdims=True))
  if sampler.min_p > 0:
    logits_BV = keep(jnp.log(sampler.min_p).astype(wide))
  return logits_BV


def sample(
  keys_B: jax.Array, logits_BV: jax.Array, sampler: Sampler
) -> tuple[jax.Array, jax.Array]:
  """(token_B, logp_B): logp in nats, of the distribution really drawn from.

  Args:
    keys_B: a typed key a row, so that rows do not depend on each other.
    logits_BV: what the model says.
    sampler: how to draw.
  """
  logits_BV = filtered(logits_BV, sampler)
  weight_BV = jnp.exp(logits_BV)  # the largest is 1
  token_B = _drawn(keys_B, weight_BV)
  found_B = jnp.take_along_axis(logits_BV, token_B[:, None], -1)[:, 0]
  return token_B, found_B - jnp.log(weight_BV.sum(-1))


def _drawn(keys_B: jax.Array, weight_BV: jax.Array) -> jax.Array:
  """Tokens in proportion to their weights, i32[B]; never one of weight 0.

  One uniform number a row, looked up in the sums of blocks of about sqrt(V)
  tokens and then within a block: far cheaper than noise on every token.
  """
  B, V = weight_BV.shape
  size = 1 << (V.bit_length() // 2)
  blocks = -(-V // size)
  weight_BV = jnp.pad(weight_BV, ((0, 0), (0, blocks * size - V)))
  weight_BJI = weight_BV.reshape(B, blocks, size)
  draw = lambda key: jax.random.uniform(key, (), weight_BV.dtype)
  reached_BJ = jnp.cumsum(weight_BJI.sum(-1), -1)
  aim_B = jax.vmap(draw)(keys_B) * reached_BJ[:, -1]
  block_B, before_B = _reached(reached_BJ, aim_B)
  weight_BI = jnp.take_along_axis(weight_BJI, block_B[:, None, None], 1)[:, 0]
  place_B, _ = _reached(jnp.cumsum(weight_BI, -1), aim_B - before_B)
  return (block_B * size + place_B).astype(jnp.int32)


def _reached(reached_BI: jax.Array, aim_B: jax.Array) -> tuple:
  """The first place whose sum exceeds an aim, and the sum before it.

  An aim that rounding has put at the last sum or beyond is just before it.
  """
  below_B = jnp.nextafter(reached_BI[:, -1], jnp.zeros_like(aim_B))
  aim_B1 = jnp.minimum(aim_B, below_B)[:, None]
  place_B = (reached_BI <= aim_B1).sum(-1)
  before_BI = jnp.where(reached_BI <= aim_B1, reached_BI, 0)
  return place_B, before_BI.max(-1)
