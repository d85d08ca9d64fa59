"""How far a policy has gone from its reference, on its own completions.

Dimension key: B rows; T positions; S those of a source.
"""

from collections.abc import Sequence
import math

import jax
import numpy as np

from llm_jax.contracts import Batch, Forward, Roles


def log_ratio(forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
  """Log pi(y) - log ref(y) of each row's completion, [B] in nats."""
  policy = forward["policy"](roles["policy"], batch).logp_BT
  reference = forward["reference"](roles["reference"], batch).logp_BT
  return ((policy - reference) * batch["mask_BT"]).sum(-1)


def batch(
  prompts: Sequence[Sequence[int]],
  completions: Sequence[Sequence[int]],
  start_id: int,
  rows: int,
  length: int,
) -> Batch:
  """Prompts with their completions as rows; those added have no mask.

  Args:
    prompts: ids of each, as they begin a document.
    completions: ids of each, what ends them included.
    start_id: what a document begins after.
    rows: B, at least as many as there are prompts.
    length: T, at least that of the longest.
  """
  out = {name: np.zeros((rows, length), np.int32) for name in _IDS}
  mask_BT = np.zeros((rows, length), bool)
  both = zip(prompts, completions, strict=True)
  for i, (prompt, completion) in enumerate(both):
    ids = [*prompt, *completion]
    out["target_BT"][i, : len(ids)] = ids
    out["tokens_BT"][i, : len(ids)] = [start_id, *ids[:-1]][: len(ids)]
    mask_BT[i, len(prompt) : len(ids)] = True
  return out | {"mask_BT": mask_BT}


def aside(
  sources: Sequence[Sequence[int]],
  completions: Sequence[Sequence[int]],
  start_id: int,
  rows: int,
  lengths: tuple[int, int],
) -> Batch:
  """The same for an encoder, which reads the prompts as sources.

  Args:
    sources: ids of each, with what stands around it.
    completions: as `batch` has them.
    start_id: what a target begins after.
    rows: B.
    lengths: S and T.
  """
  S, T = lengths
  none: list[list[int]] = [[] for _ in completions]
  out = {**batch(none, completions, start_id, rows, T)}
  for name in ("source_BS", "source_segment_BS"):
    out[name] = np.zeros((rows, S), np.int32)
  for i, ids in enumerate(sources):
    out["source_BS"][i, : len(ids)] = ids
    out["source_segment_BS"][i, : len(ids)] = 1
  return out


_IDS = ("tokens_BT", "target_BT")


def summary(ratios: Sequence[float]) -> dict[str, float]:
  """KL(pi || ref) by completions that were drawn from pi.

  E_pi[log pi(y) - log ref(y)], a mean over completions of sums over tokens;
  of completions cut at a limit, that of what is before it.

  Returns:
    kl           nats a completion
    kl_error     standard error of that; left out of a single completion
    completions  how many were drawn
  """
  n = len(ratios)
  if not n:
    raise ValueError("there is no completion to evaluate on")
  x = np.asarray(ratios, np.float64)
  out = {"kl": float(x.mean()), "completions": float(n)}
  if n > 1:
    out["kl_error"] = float(x.std(ddof=1) / math.sqrt(n))
  return out
