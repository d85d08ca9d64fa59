"""A reference that follows the policy at a distance."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from llm_jax.config import field


@dataclasses.dataclass(frozen=True)
class Refresh:
  """Trust-region updates of the reference (TR-DPO, arXiv:2404.09656).

  After every n optimiser steps ref <- mix pi + (1 - mix) ref. With mix 1 the
  reference is the policy of then ("hard" there, n some hundreds); with n = 1
  and mix 0.5 to 0.7 it trails it ("soft"). Steps that were skipped do not
  count. Beside adapters the reference is the base with adapters of its own.
  """

  every: int = field(
    0, "optimiser steps between refreshes of the reference; 0 = never", low=0
  )
  mix: float = field(
    1.0, "share of the policy in a refreshed reference", low=0, high=1
  )

  def __post_init__(self) -> None:
    if not self.mix:
      raise ValueError(
        "--refresh.mix=0.0: must be more than 0; --refresh.every=0 = never"
      )

  def mixed(self, reference: Any, policy: Any, updates: jax.Array) -> Any:
    """The reference after so many updates of the policy, which is the newest.

    Args:
      reference: tree of arrays.
      policy: of the same structure.
      updates: i32[], of the policy so far, at least 1.
    """
    due = updates % self.every == 0
    mix = lambda r, p: jnp.where(due, self.mix * p + (1 - self.mix) * r, r)
    return jax.tree.map(mix, reference, policy)
