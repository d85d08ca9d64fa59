"""Alignment by optimal transport: what is compared are distributions.

Dimension key: B rows; Q pairs; 2 = (chosen, rejected).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from llm_jax.config import field
from llm_jax.contracts import Batch
from llm_jax.objectives.dpo import Referenced, smoothed
from llm_jax.objectives.pairwise import by_pair, by_row, known, Pairs, Terms


@dataclasses.dataclass(frozen=True)
class AOT(Referenced):
  """Melnyk et al. 2024, arXiv:2406.05882: dominance at every quantile k.

    loss = -(1 - e) log sigmoid(beta d_k) - e log sigmoid(-beta d_k)

    paired:   d_k = (log pi(y_w) - log pi(y_l))_(k)
                    - (log ref(y_w) - log ref(y_l))_(k)
    unpaired: d_k = (log pi(y_w) - log ref(y_w))_(k)
                    - (log pi(y_l) - log ref(y_l))_(k)

  with (x)_(k) the k-th smallest of the global batch. Who meets whom is found
  before the loss, by a forward without gradient or dropout.
  """

  pairing: Literal["paired", "unpaired"] = field(
    "paired", "compare pairs with the reference's, or chosen with rejected"
  )
  smoothing: float = field(
    0.0, "share of pairs taken to be the wrong way round", low=0, high=0.5
  )

  @property
  def needs_policy(self) -> bool:
    return not (self.pairing == "paired" and self.reference_free)

  def columns(self, batch: Batch) -> dict[str, jax.Array]:
    """Whom each completion, or each pair, meets."""
    pairs = known(batch)
    there_Q = by_pair(batch["weight_B"])[:, 0] > 0
    if not self.needs_policy:
      return {}
    if self.pairing == "paired":
      mine_Q = _difference(self.each(pairs.policy_Q2, pairs))
      its_Q = _difference(self.each(pairs.reference_Q2, pairs))
      return {"aot_paired": by_row(_of_same_rank(mine_Q, its_Q, there_Q))}
    c_Q, r_Q = self.each(self.ratio(pairs), pairs).T
    of_c_Q = _of_same_rank(c_Q, r_Q, there_Q)
    of_r_Q = _of_same_rank(r_Q, c_Q, there_Q)
    return {"aot_unpaired": jnp.stack([of_c_Q, of_r_Q], -1).reshape(-1)}

  def terms(self, pairs: Pairs) -> Terms:
    ratio_Q2 = self.each(self.ratio(pairs), pairs)
    reward_Q2 = self.beta * ratio_Q2
    of = lambda d_Q: smoothed(self.beta * d_Q, self.smoothing)
    if self.pairing == "paired":
      d_Q = _difference(self.each(pairs.policy_Q2, pairs))
      if self.needs_policy:
        d_Q = d_Q - pairs.columns_Q2["aot_paired"][:, 0]
      return Terms(of(d_Q), reward_Q2)
    met_Q2 = pairs.columns_Q2["aot_unpaired"]
    # Each quantile is here twice, once for the gradient of either side: as a
    # value half of each counts, as a gradient both do.
    twice_Q = of(ratio_Q2[:, 0] - met_Q2[:, 0])
    twice_Q += of(met_Q2[:, 1] - ratio_Q2[:, 1])
    return Terms(twice_Q - jax.lax.stop_gradient(twice_Q / 2), reward_Q2)


def _difference(x_Q2: jax.Array) -> jax.Array:
  return x_Q2[:, 0] - x_Q2[:, 1]


def _of_same_rank(
  mine_Q: jax.Array, its_Q: jax.Array, there_Q: jax.Array
) -> jax.Array:
  """For each of mine, that of its which has the same rank; 0 if not there."""
  far = lambda x_Q: jnp.where(there_Q, x_Q, jnp.inf)
  rank_Q = jnp.argsort(jnp.argsort(far(mine_Q)))
  return jnp.where(there_Q, jnp.sort(far(its_Q))[rank_Q], 0)
