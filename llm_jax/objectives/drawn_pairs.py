"""Pairs of what a policy drew: online preference optimisation.

Guo et al. 2024, arXiv:2402.04792, algorithm 1: of completions of a prompt that
the policy draws as it is, the one that a judge prefers is chosen and another
rejected; any loss of pairs learns from them.

Differs from the paper: there are two completions of a prompt there, here of K
the best and the worst; an update's pairs may be read more than once.

Dimension key: B completions, those of a prompt side by side; K of a prompt;
Q = B / K prompts; T positions.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from llm_jax.contracts import Batch
from llm_jax.objectives.pairwise import by_row

_ROWS = ("tokens_BT", "target_BT", "mask_BT", "position_BT", "segment_BT")


@dataclasses.dataclass(frozen=True)
class DrawnPairs:
  """Makes pairs of groups of K completions."""

  completions: int
  rows_together: ClassVar[int] = 2

  def credit(self, batch: Batch) -> Batch:
    """Rows of pairs, chosen and rejected, as `Pairwise` reads them.

    A prompt whose completions all score the same has none in either row, which
    no loss counts.

    Args:
      batch: has `score_B`, and `ref_logp_BT` where the loss has a reference.

    Returns:
      2 Q rows; `margin_B` is by how much the chosen one scores more. What else
      is known of completions, one number each, is the mean over a prompt's.
    """
    K = self.completions
    score_QK = batch["score_B"].reshape(-1, K)
    Q = len(score_QK)
    pair_Q2 = jnp.stack([score_QK.argmax(1), score_QK.argmin(1)], 1)
    row_B = (jnp.arange(Q)[:, None] * K + pair_Q2).reshape(-1)
    margin_Q = score_QK.max(1) - score_QK.min(1)
    differs_B1 = by_row(margin_Q > 0)[:, None]
    mean = lambda x_B: by_row(x_B.reshape(Q, K).mean(1).astype(score_QK.dtype))
    out = {n: mean(x) for n, x in batch.items() if n.endswith("_B")}
    out.pop("beta_B", None)  # of the KL that scores lose; pairs know their own
    out |= {name: batch[name][row_B] for name in _ROWS}
    before_BT = jnp.cumsum(out["mask_BT"], 1) == 0
    out["prompt_BT"] = before_BT & (out["segment_BT"] > 0) & differs_B1
    out["mask_BT"] &= differs_B1
    if "ref_logp_BT" in batch:
      # Of the whole completion: what is not counted need not be right.
      logp_BT = jnp.where(batch["mask_BT"], batch["ref_logp_BT"], 0)
      out["ref_logp_B"] = logp_BT.sum(-1)[row_B]
    return out | {"margin_B": by_row(margin_Q)}
