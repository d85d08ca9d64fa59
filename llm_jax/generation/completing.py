"""Rows of prompts and completions, completed anew.

Rows are as a source of completions gives them: `tokens_BT` read, `target_BT`
to be predicted, `mask_BT` on the completion's targets, `prompt_BT` on those of
the prompt; or with the prompt in `source_BS`, as an encoder reads it.

Dimension key: B rows; T positions; S those of a source; N new tokens.
"""

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch
from llm_jax.generation.decode import Rollout


def prompts(rows: Batch) -> tuple[jax.Array, jax.Array]:
  """What stands before completions, as `decode.prefill` reads it.

  Returns:
    prompt_BT i32, aligned on the right, and length_B i32, which counts what a
    document begins after. Of sources T is S.
  """
  read_BT, length_B = rows["tokens_BT"], _begin(rows) + 1
  if "source_BS" in rows:
    read_BT = rows["source_BS"]
    length_B = (rows["source_segment_BS"] > 0).sum(-1)
  T = read_BT.shape[1]
  at_BT = jnp.arange(T) - (T - length_B[:, None])
  prompt_BT = jnp.take_along_axis(read_BT, jnp.maximum(at_BT, 0), axis=1)
  return axes.constrain(jnp.where(at_BT >= 0, prompt_BT, 0), "BT"), length_B


def completed(rows: Batch, out: Rollout) -> Batch:
  """The same prompts with drawn completions, as long as there is room.

  A row without a completion stays without one.

  Args:
    rows: which were completed.
    out: tokens drawn after their prompts.

  Returns:
    The four arrays of rows.
  """
  T, N = rows["mask_BT"].shape[1], out.tokens_BT.shape[1]
  begin_B1 = _begin(rows)[:, None]
  at_BT = jnp.arange(T) - begin_B1
  size_B = jnp.where(rows["mask_BT"].any(-1), out.length_B, 0)
  mask_BT = (at_BT >= 0) & (at_BT < size_B[:, None])
  drawn_BT = jnp.take_along_axis(
    out.tokens_BT, jnp.clip(at_BT, 0, N - 1), axis=1
  )
  before_BT = at_BT < 0
  target_BT = jnp.where(before_BT, rows["target_BT"], 0)
  target_BT = jnp.where(mask_BT, drawn_BT, target_BT)
  read_BT = jnp.concatenate(
    [rows["tokens_BT"][:, :1], target_BT[:, :-1]], axis=1
  )
  new = {
    "tokens_BT": jnp.where(before_BT | mask_BT, read_BT, 0),
    "target_BT": target_BT,
    "mask_BT": mask_BT,
    "prompt_BT": before_BT & rows["prompt_BT"],
  }
  return {name: axes.constrain(x, "BT") for name, x in new.items()}


def _begin(rows: Batch) -> jax.Array:
  """Place of the first target of each completion, i32[B]; 0 without one."""
  return jnp.argmax(rows["mask_BT"], axis=-1).astype(jnp.int32)
