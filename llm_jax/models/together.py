"""Rows scored several in one: what is said of each is what it would be alone.

Dimension key: B rows, in G groups of M positions, as many as devices that rows
are cut over; R packed rows of S positions; T positions of a row.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch, Score, Scores

_READ = ("tokens_BT", "target_BT", "position_BT", "asked_BT")


def packing(score: Score) -> Score:
  """The same forward, at the cost of as many rows as a batch says it needs.

  A batch with `place_BT` has the rows scored in packed ones: [R, S], i32, which
  of its B x T positions stands there, row after row; -1 = none. Each is at one
  place, and so is all that it may look at. Of positions at no place the scores
  are 0. No position leaves its group.
  """

  def scores(variables: Any, batch: Batch, **how: Any) -> Scores:
    if "place_BT" not in batch:
      return score(variables, batch, **how)
    place_RS = batch["place_BT"]
    B, T = batch["tokens_BT"].shape
    groups = axes.cuts("B")
    M = B // groups * T
    place_GP = _grouped(place_RS, groups)
    first_G1 = M * jnp.arange(groups)[:, None]
    at_GP = jnp.where(place_GP < 0, M, place_GP - first_G1)  # M is nowhere
    P = at_GP.shape[1]
    back_GM = jax.vmap(
      lambda at_P: jnp.full(M, P).at[at_P].set(jnp.arange(P), mode="drop")
    )(at_GP)
    rows = {
      name: _taken(_grouped(batch[name], groups), at_GP).reshape(place_RS.shape)
      for name in _READ
      if name in batch
    }
    rows["segment_BT"] = jnp.where(place_RS < 0, 0, 1 + place_RS // T)
    found = score(variables, rows, **how)
    alone = jax.tree.map(
      lambda x_RS: _taken(_grouped(x_RS, groups), back_GM).reshape(
        B, T, *x_RS.shape[2:]
      ),
      found._replace(routing=None),
    )
    return alone._replace(routing=found.routing)  # which is of all rows

  return scores


def _grouped(x_BT: jax.Array, groups: int) -> jax.Array:
  x_GM = x_BT.reshape(groups, -1, *x_BT.shape[2:])
  return axes.constrain(x_GM, "B" + "_" * (x_GM.ndim - 1))


def _taken(x_GM: jax.Array, at_GP: jax.Array) -> jax.Array:
  """0 where a place is none of the group's."""
  take = lambda x_M, at_P: x_M.at[at_P].get(mode="fill", fill_value=0)
  return jax.vmap(take)(x_GM, at_GP)
