"""What is added around an objective, which knows nothing of it."""

import dataclasses

import jax

from llm_jax.contracts import Batch, Forward, Objective, Roles


@dataclasses.dataclass(frozen=True)
class Around(Objective):
  """All that an objective says of itself is said of what is around it."""

  objective: Objective

  @property
  def reads(self) -> tuple[str, ...]:
    return self.objective.reads

  @property
  def rows_together(self) -> int:
    return self.objective.rows_together

  @property
  def needs_reference(self) -> bool:
    return self.objective.needs_reference

  @property
  def needs_critic(self) -> bool:
    return self.objective.needs_critic

  def asked(self, batch: Batch) -> jax.Array | None:
    return self.objective.asked(batch)

  def moved_by(self, batch: Batch) -> jax.Array | None:
    return self.objective.moved_by(batch)

  def annotate(self, forward: Forward, roles: Roles, batch: Batch) -> Batch:
    return self.objective.annotate(forward, roles, batch)

  def rewards(
    self, forward: Forward, roles: Roles, batch: Batch
  ) -> jax.Array | None:
    return self.objective.rewards(forward, roles, batch)
