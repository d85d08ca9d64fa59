"""Any objective on rows that hold several completions.

Dimension key: B rows; S completions of a row; T positions; M = B S completions.
"""

import dataclasses
from typing import Any

import jax

from llm_jax.contracts import (
  Batch,
  Forward,
  Metrics,
  Roles,
  Score,
  Scores,
)
from llm_jax.objectives.around import Around
from llm_jax.ops import slots


@dataclasses.dataclass(frozen=True)
class Packed(Around):
  """The same objective, which need not know how completions are laid out.

  It is shown a batch of M rows with one completion each, and what roles say of
  the packed rows as if it were of these. What it adds is laid out as the batch
  is. A batch of which every row is one document it gets as it is.
  """

  def annotate(self, forward: Forward, roles: Roles, batch: Batch) -> Batch:
    alone, forward = self._alone(batch), self._forward(forward, batch)
    return self._packed(self.objective.annotate(forward, roles, alone), batch)

  def rewards(
    self, forward: Forward, roles: Roles, batch: Batch
  ) -> jax.Array | None:
    """Of completions, [B, S]; [B] where every row is one."""
    alone, forward = self._alone(batch), self._forward(forward, batch)
    found, size = (
      self.objective.rewards(forward, roles, alone),
      slots.count(batch),
    )
    if found is None or not size:
      return found
    return slots.rowwise(found, self.rows_together, size)

  def weigh(self, batch: Batch) -> Batch:
    return self._packed(self.objective.weigh(self._alone(batch)), batch)

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    alone, forward = self._alone(batch), self._forward(forward, batch)
    return self.objective.loss(forward, roles, alone, key)

  def shown(self, forward: Forward, batch: Batch) -> tuple[Forward, Batch]:
    """What the objective is shown of roles and of a batch."""
    return self._forward(forward, batch), self._alone(batch)

  def _alone(self, batch: Batch) -> Batch:
    if not slots.count(batch):
      return batch
    return slots.unpacked(batch, self.rows_together)

  def _forward(self, forward: Forward, batch: Batch) -> Forward:
    if not slots.count(batch):
      return forward
    inside_BST = slots.inside(batch)

    def of(score: Score) -> Any:
      def scores(variables: Any, asked: Batch, **how: Any) -> Scores:
        if len(asked["mask_BT"]) != inside_BST.shape[0] * inside_BST.shape[1]:
          raise ValueError("of packed rows some cannot be asked about alone")
        found = score(variables, batch, **how)
        each = lambda x: slots.each(x, inside_BST, self.rows_together)
        return jax.tree.map(each, found._replace(routing=None))

      return scores

    return {role: of(score) for role, score in forward.items()}

  def _packed(self, found: Batch, batch: Batch) -> Batch:
    """The packed batch with what `found` has more."""
    size, group = slots.count(batch), self.rows_together
    if not size:
      return found
    out = dict(batch)
    known = self._alone(batch)
    for name, x in found.items():
      if name in known:
        continue
      x_BS = slots.rowwise(x, group, size)
      if name.endswith("_BT"):  # zero outside of each completion
        out[name] = x_BS.sum(1)
      else:
        out[f"{name}S"] = x_BS
    return out
