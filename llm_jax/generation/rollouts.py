"""Prompts -> rows to learn from: prompt, completion, and how it was drawn.

Dimension key: B sequences; P prompt places; N new tokens; T = P + N - 1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.config import field
from llm_jax.contracts import Batch
from llm_jax.generation import decode as decode_lib
from llm_jax.ops.sampling import Sampler


@dataclasses.dataclass(frozen=True)
class Rollouts:
  """What is drawn for an update, and how often it is read."""

  batch: int = field(64, "completions drawn for an update", low=1)
  epochs: int = field(4, "how often an update reads each of them", low=1)
  target_kl: float | None = field(
    None,
    "an update ends after a step whose minibatch was further than this from"
    " where it was drawn, nats a token (`kl_old`); none = never",
    low=0,
  )
  max_new_tokens: int = field(64, "tokens of a completion, at most", low=1)
  max_prompt: int = field(128, "tokens of a prompt; longer are left out", low=1)
  pair_of: int = field(
    0,
    "completions drawn of a prompt, of which the best and the worst are a pair:"
    " online DPO (arXiv:2402.04792; 2 there) and its kin; 0 = pairs are the"
    " data's",
    low=0,
  )
  drawings: int = field(
    1,
    "times that an update may draw: prompts whose completions all score the"
    " same give way to others until the batch is full (DAPO's dynamic sampling,"
    " arXiv:2503.14476, section 3.2); 1 = it takes what comes",
    low=1,
  )
  widths: int = field(
    4,
    "what is drawn, and what is learned from it, is as wide as its longest row"
    " needs, at one of this many widths, each compiled once; 1 = always the"
    " whole",
    low=1,
  )
  packing: int = field(
    16,
    "where that is less work, what was drawn is scored and learned from several"
    " completions a row, in one of this many numbers of rows, each compiled"
    " once; 0 = each completion in a row of its own",
    low=0,
  )
  sampler: Sampler = Sampler(temperature=0.7)

  def __post_init__(self) -> None:
    if self.pair_of == 1:
      raise ValueError("--rollouts.pair_of=1: a pair is of 2 or more; 0 = none")
    if self.sampler.temperature <= 0:
      raise ValueError(
        "--rollouts.sampler.temperature=0: must be more than 0, or all"
        " completions of a prompt are one"
      )


def draw(
  decode: decode_lib.Decode,
  variables: Any,
  prompt_BP: jax.Array,
  length_B: jax.Array,
  cache: Any,
  key: jax.Array,
  *,
  limit: int,
  sampler: Sampler,
  stop_ids: tuple[int, ...],
  completions: int = 1,
  repeat: decode_lib.Change | None = None,
  grow: decode_lib.Change | None = None,
) -> Batch:
  """A batch of drawn completions; pure, to be compiled.

  Args:
    decode: the model, see `decode.Decode`.
    variables: its weights.
    prompt_BP: ids, aligned on the right; only the last `length_B` count. Each
      prompt as often as it is completed, one after the other.
    length_B: i32, at least 1.
    cache: empty, with a row for each prompt and room for P + N tokens; for P
      where it can grow.
    key: of this drawing; each row has a key of its own from it.
    limit: N, most tokens of a completion.
    sampler: how a token is drawn.
    stop_ids: that end a completion, and belong to it.
    completions: how often each prompt is completed; it is read once.
    repeat: of the cache, where that is more than once.
    grow: of the cache, see `decode.rollout`.

  Returns:
    `tokens_BT`, `target_BT`, `position_BT` and `segment_BT` as every forward
    reads them; `mask_BT`, the targets that were drawn; `sampled_logp_BT` of
    these, nats, as the sampler knows it; `ended_B`, whether a stop id came;
    `limit_B` = N.
  """
  B, P = prompt_BP.shape
  out = decode_lib.rollout(
    decode,
    variables,
    axes.constrain(prompt_BP[::completions], "BT"),
    axes.constrain(length_B[::completions], "B"),
    cache,
    key,
    limit=limit,
    sampler=sampler,
    stop_ids=stop_ids,
    completions=completions,
    repeat=repeat,
    grow=grow,
  )
  row_BS = jnp.concatenate([prompt_BP, out.tokens_BT], 1)
  begin_B1 = P - length_B[:, None]
  place_T = jnp.arange(P + limit - 1)
  end_B1 = P + out.length_B[:, None]
  real_BT = (place_T >= begin_B1) & (place_T < end_B1)
  no_BT = jnp.zeros((B, P - 1), bool)
  last_B = jnp.take_along_axis(
    out.tokens_BT, jnp.maximum(out.length_B - 1, 0)[:, None], 1
  )[:, 0]
  ended_B = jnp.zeros(B, bool)
  for stop in stop_ids:
    ended_B |= last_B == stop
  return {
    "tokens_BT": row_BS[:, :-1],
    "target_BT": row_BS[:, 1:],
    "position_BT": jnp.maximum(place_T - begin_B1, 0).astype(jnp.int32),
    "segment_BT": real_BT.astype(jnp.int32),
    "mask_BT": jnp.concatenate([no_BT, out.mask_BT], 1),
    "sampled_logp_BT": jnp.concatenate(
      [jnp.zeros((B, P - 1), out.sampled_logp_BT.dtype), out.sampled_logp_BT],
      1,
    ),
    "ended_B": ended_B,
    "limit_B": jnp.full(B, limit, jnp.int32),
  }
