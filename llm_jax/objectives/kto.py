"""Kahneman-Tversky optimisation: completions that are liked or not.

Row 2i of a batch is a prompt with its completion, row 2i + 1 the same prompt
with that of another; `label_B` says whether completion 2i is liked. The rest
is as in `pairwise`, `ref_logp_B` included.

Dimension key: B rows; Q = B / 2 completions; 2 = (its own, another's).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch, Forward, Metrics, Objective, Roles
from llm_jax.objectives.pairwise import by_pair, by_row, completion_logp
from llm_jax.ops.metrics import Mean


@dataclasses.dataclass(frozen=True)
class KTO(Objective):
  """Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7.

    loss = mean of  d (1 - sigmoid(beta (x - z)))  over completions liked,
                    u (1 - sigmoid(beta (z - x)))  over those disliked,
    x = log pi(y) - log ref(y),  z = max(0, mean of x of mismatched completions)

  z is of the whole global batch and has no gradient; it costs a forward of the
  mismatched rows without gradient or dropout. With n_d completions liked and
  n_u not, the paper has d n_d / (u n_u) in [1, 4/3] (eq. 8).
  """

  reads: ClassVar[tuple[str, ...]] = ("labels",)
  rows_together: ClassVar[int] = 2

  beta: float = field(0.1, "strength of the pull to the reference", low=0)
  desirable: float = field(1.0, "weight of completions liked, d", low=0)
  undesirable: float = field(1.0, "weight of those disliked, u", low=0)

  def __post_init__(self) -> None:
    if not self.beta > 0:
      raise ValueError(f"--objective.beta={self.beta}: must be more than 0")

  @property
  def needs_reference(self) -> bool:
    return True

  def asked(self, batch: Batch) -> jax.Array:
    """Those of completions."""
    return batch["mask_BT"]

  def moved_by(self, batch: Batch) -> jax.Array:
    """Completions with their own prompt."""
    return jnp.arange(len(batch["mask_BT"])) % 2 == 0

  def annotate(self, forward: Forward, roles: Roles, batch: Batch) -> Batch:
    """Asks the reference, and the policy about mismatched completions."""
    batch = dict(batch)
    if "ref_logp_B" not in batch:
      scores = forward["reference"](roles["reference"], batch)
      batch["ref_logp_B"] = completion_logp(scores, batch)
    others = _half(batch, 1)
    scores = forward["policy"](roles["policy"], others)
    batch["other_B"] = by_row(
      completion_logp(scores, others) - others["ref_logp_B"]
    )
    return jax.lax.stop_gradient(batch)

  def rewards(self, forward: Forward, roles: Roles, batch: Batch) -> jax.Array:
    """Beta x of every row, [B]; pairs can be read, too."""
    scores = forward["policy"](roles["policy"], batch)
    reference_B = batch.get("ref_logp_B")
    if reference_B is None:
      theirs = forward["reference"](roles["reference"], batch)
      reference_B = completion_logp(theirs, batch)
    return self.beta * (completion_logp(scores, batch) - reference_B)

  def weigh(self, batch: Batch) -> Batch:
    """Completions weigh by their class; z is one number for all."""
    there_Q2 = by_pair(batch["mask_BT"].any(-1))
    liked_Q = by_pair(batch["label_B"])[:, 0] > 0
    weight_Q = jnp.where(liked_Q, self.desirable, self.undesirable)
    weight_Q *= there_Q2[:, 0] / jnp.maximum(there_Q2[:, 0].sum(), 1)
    other_Q = by_pair(batch["other_B"])[:, 0] * there_Q2[:, 1]
    z = jax.nn.relu(other_Q.sum() / jnp.maximum(there_Q2[:, 1].sum(), 1))
    z_B = jnp.full_like(batch["other_B"], z)
    return {**batch, "weight_B": by_row(weight_Q), "baseline_B": z_B}

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    """The sum of weight times loss, and what is reported."""
    own = _half(batch, 0)
    scores = forward["policy"](roles["policy"], own, key=key)
    logp_Q = completion_logp(scores, own)
    ratio_Q = logp_Q - own["ref_logp_B"]
    liked_Q, z_Q = own["label_B"] > 0, own["baseline_B"]
    gain_Q = jnp.where(liked_Q, ratio_Q - z_Q, z_Q - ratio_Q)
    loss_Q = jax.nn.sigmoid(-self.beta * gain_Q)
    there_Q = own["mask_BT"].any(-1)
    reward_Q = self.beta * jax.lax.stop_gradient(ratio_Q)
    good_Q, bad_Q = there_Q & liked_Q, there_Q & ~liked_Q
    metrics = {
      "reward_chosen": Mean.of(reward_Q, good_Q),
      "reward_rejected": Mean.of(reward_Q, bad_Q),
      "logp_chosen": Mean.of(logp_Q, good_Q),
      "logp_rejected": Mean.of(logp_Q, bad_Q),
      "accuracy": Mean.of(
        ((ratio_Q > z_Q) == liked_Q).astype(logp_Q.dtype), there_Q
      ),
      "baseline": Mean.of(z_Q),
      "tokens": Mean.sum(own["mask_BT"].sum().astype(logp_Q.dtype)),
    }
    return (own["weight_B"] * loss_Q).sum(), metrics


def _half(batch: Batch, which: int) -> Batch:
  """The rows of one side, [Q, ...]."""
  return {name: by_pair(x)[:, which] for name, x in batch.items()}
