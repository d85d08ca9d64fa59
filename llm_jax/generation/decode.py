"""A model in a loop: prefill, then a token at a time, all compiled.

Dimension key: B sequences; Q prompts; P prompt positions; T new tokens; V
vocabulary.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Tokenizer
from llm_jax.ops import sampling

Decode = Callable[..., tuple[jax.Array, Any]]
"""(variables, tokens_BT, position_BT, segment_BT, cache) -> logits, cache."""
Change = Callable[[Any, int], Any]
"""(cache, n) -> each row n times, one after the other; or room for n more."""
_PARTS, _LEAST = 4, 32  # of a loop whose cache grows: at most, tokens at least


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
  """Where a batch of sequences stands."""

  logits_BV: jax.Array  # of the next token
  cache: Any
  position_B: jax.Array  # i32, of the next token
  done_B: jax.Array  # bool, a stop id was drawn
  count: jax.Array  # i32[], new tokens so far
  keys_B: jax.Array  # one key a row


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
  """What was drawn: `mask_BT` is True for drawn tokens, the stop id included.

  `sampled_logp_BT` is in nats, of the distribution really sampled from.
  """

  tokens_BT: jax.Array
  mask_BT: jax.Array
  sampled_logp_BT: jax.Array
  length_B: jax.Array


def room(read: int, longest: int, apart: bool) -> int:
  """New tokens that a model has room for.

  Args:
    read: tokens of the prompt.
    longest: that the model reads; of an encoder-decoder each of source and
      target.
    apart: whether an encoder reads the prompt.
  """
  if apart:
    return longest if read <= longest else 0
  return longest - read


def framed(ids: Sequence[int], tokenizer: Tokenizer, apart: bool) -> list[int]:
  """A prompt as a model reads it: as a document begins, or as a source.

  Args:
    ids: of the prompt.
    tokenizer: whose start stands before documents, and eos behind sources;
      before them, too, what it begins texts with, unless that is eos. What
      ends with eos already is a whole source.
    apart: whether an encoder reads it.
  """
  if not apart:
    return [tokenizer.start_id, *ids]
  first, last = tokenizer.start_id, tokenizer.eos_id
  if len(ids) and ids[-1] == last:
    return [*ids]
  return [*([] if first == last else [first]), *ids, last]


def prefill(
  decode: Decode,
  variables: Any,
  prompt_BP: jax.Array,
  length_B: jax.Array,
  cache: Any,
  keys_B: jax.Array,
) -> Progress:
  """Reads prompts aligned on the right; padding comes before them.

  Args:
    decode: the model.
    variables: its weights.
    prompt_BP: ids; only the last `length_B` of a row count.
    length_B: i32, at least 1.
    cache: empty, with room for P and all new tokens.
    keys_B: a key a row.
  """
  P = prompt_BP.shape[1]
  places_P = jnp.arange(P, dtype=jnp.int32)
  position_BP = places_P[None] - (P - length_B[:, None])
  segment_BP = (position_BP >= 0).astype(jnp.int32)
  logits_BV, cache = decode(
    variables, prompt_BP, jnp.maximum(position_BP, 0), segment_BP, cache
  )
  B = prompt_BP.shape[0]
  return Progress(
    logits_BV,
    cache,
    length_B,
    jnp.zeros(B, bool),
    jnp.zeros((), jnp.int32),
    keys_B,
  )


def extend(
  decode: Decode,
  variables: Any,
  progress: Progress,
  *,
  limit: int,
  sampler: sampling.Sampler,
  stop_ids: tuple[int, ...],
  pad_id: int = 0,
) -> tuple[Progress, Rollout]:
  """Draws up to `limit` tokens a row; ends early once every row has stopped.

  The n-th token of a row is drawn with key fold_in(row's key, n), so it does
  not depend on other rows, nor on how the tokens are cut into calls.
  """
  B = progress.done_B.shape[0]
  wide = jnp.promote_types(progress.logits_BV.dtype, jnp.float32)
  out = Rollout(
    jnp.full((B, limit), pad_id, jnp.int32),
    jnp.zeros((B, limit), bool),
    jnp.zeros((B, limit), wide),
    jnp.zeros(B, jnp.int32),
  )

  def one(carry: tuple) -> tuple:
    i, p, out = carry
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(p.keys_B, p.count)
    token_B, logp_B = sampling.sample(keys_B, p.logits_BV, sampler)
    live_B = ~p.done_B
    token_B = jnp.where(live_B, token_B, pad_id)
    out = Rollout(
      out.tokens_BT.at[:, i].set(token_B),
      out.mask_BT.at[:, i].set(live_B),
      out.sampled_logp_BT.at[:, i].set(jnp.where(live_B, logp_B, 0)),
      out.length_B + live_B,
    )
    stopped_B = jnp.zeros(B, bool)
    for stop in stop_ids:
      stopped_B |= token_B == stop
    logits_BV, cache = decode(
      variables,
      token_B[:, None],
      p.position_B[:, None],
      jnp.ones((B, 1), jnp.int32),
      p.cache,
    )
    p = Progress(
      logits_BV,
      cache,
      p.position_B + 1,
      p.done_B | stopped_B,
      p.count + 1,
      p.keys_B,
    )
    return i + 1, p, out

  def going(carry: tuple) -> jax.Array:
    i, p, _ = carry
    return (i < limit) & ~p.done_B.all()

  start = (jnp.zeros((), jnp.int32), progress, out)
  _, progress, out = jax.lax.while_loop(going, one, start)
  return progress, out


def rollout(
  decode: Decode,
  variables: Any,
  prompt_QP: jax.Array,
  length_Q: jax.Array,
  cache: Any,
  key: jax.Array,
  *,
  limit: int,
  sampler: sampling.Sampler,
  stop_ids: tuple[int, ...],
  completions: int = 1,
  repeat: Change | None = None,
  grow: Change | None = None,
) -> Rollout:
  """Prefill and extend in one: prompts -> up to `limit` new tokens a row.

  Args:
    decode: the model.
    variables: its weights.
    prompt_QP: see `prefill`.
    length_Q: likewise.
    cache: likewise, a row for each prompt.
    key: row b of B = Q `completions` draws with fold_in(key, b).
    limit: most new tokens of a row.
    sampler: how they are drawn.
    stop_ids: that end a row.
    completions: rows of each prompt, one after the other; it is read once.
    repeat: of the cache, where there are several.
    grow: of the cache, which then has room for the prompts alone and grows as
      tokens come; without it, there is room for all of them.
  """
  rows = jnp.arange(len(prompt_QP) * completions)
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  keys_Q = keys_B[::completions]
  progress = prefill(decode, variables, prompt_QP, length_Q, cache, keys_Q)
  if completions > 1:
    assert repeat is not None
    logits_BV, position_B, done_B = (
      axes.constrain(jnp.repeat(x, completions, 0), suffix)
      for x, suffix in (
        (progress.logits_BV, "BV"),
        (progress.position_B, "B"),
        (progress.done_B, "B"),
      )
    )
    progress = Progress(
      logits_BV,
      repeat(progress.cache, completions),
      position_B,
      done_B,
      progress.count,
      keys_B,
    )
  parts = min(_PARTS, -(-limit // _LEAST)) if grow else 1
  size, outs = -(-limit // parts), []
  for start in range(0, limit, size):
    part = min(size, limit - start)
    if grow is not None:
      progress = dataclasses.replace(progress, cache=grow(progress.cache, part))
    progress, out = extend(
      decode,
      variables,
      progress,
      limit=part,
      sampler=sampler,
      stop_ids=stop_ids,
    )
    outs.append(out)
  join = lambda name: jnp.concatenate([getattr(x, name) for x in outs], 1)
  return Rollout(
    join("tokens_BT"),
    join("mask_BT"),
    join("sampled_logp_BT"),
    jnp.stack([x.length_B for x in outs]).sum(0),
  )
