"""What training carries from one step to the next."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_jax import trees
from llm_jax.contracts import Roles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """The trainable and frozen halves have one structure; None marks the other.

  The root key is never split: step i uses `keys.stream(key, name, i)`.
  """

  step: jax.Array  # i32[], steps done
  trainable: Roles
  frozen: Roles
  opt_state: Any
  key: jax.Array
  skipped: jax.Array  # i32[], steps left out as not finite
  average: Roles | None = None  # moving average of `trainable`, if kept

  @property
  def roles(self) -> Roles:
    """Both halves, as trained last."""
    return whole(trees.join(self.trainable, self.frozen))

  @property
  def averaged(self) -> Roles:
    """Both halves, with the moving average where one is kept."""
    best = self.trainable if self.average is None else self.average
    return whole(trees.join(best, self.frozen))


def whole(roles: Roles) -> Roles:
  """Roles with every array that they use.

  The state holds of "reference" only what differs from the policy's base: a
  copy of the params that train. Adapters are not the base's, so beside them
  the reference is no array at all.
  """
  if "reference" not in roles:
    return roles
  base = {k: v for k, v in roles["policy"].items() if k != "adapters"}
  return {**roles, "reference": trees.overlay(base, roles["reference"])}


def create(
  roles: Roles,
  is_trainable: Callable[[str], bool | int],
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  *,
  average: bool = False,
) -> TrainState:
  """A state before its first step."""
  trainable, frozen = trees.split(roles, is_trainable)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen=frozen,
    opt_state=optimizer.init(trainable),
    key=key,
    # A copy: a donated state may not hold one array twice.
    average=jax.tree.map(jnp.copy, trainable) if average else None,
    skipped=jnp.zeros((), jnp.int32),
  )
