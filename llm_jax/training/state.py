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
  # What the role "reference" has of the policy's `trainable`, if refreshed.
  reference: Any = None

  @property
  def roles(self) -> Roles:
    """Both halves, as trained last."""
    return self._with(self.trainable)

  @property
  def averaged(self) -> Roles:
    """Both halves, with the moving average where one is kept."""
    return self._with(self.trainable if self.average is None else self.average)

  def _with(self, trainable: Roles) -> Roles:
    roles = whole(trees.join(trainable, self.frozen))
    if self.reference is None:
      return roles
    its = trees.join(self.reference, self.frozen["policy"])
    return {**roles, "reference": its}


def whole(roles: Roles) -> Roles:
  """Roles with every array that they use.

  A state whose reference stays holds of it only what differs from the policy's
  base: a copy of the params that train. Adapters are not the base's, so beside
  them the reference is no array at all.
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
  refreshed: bool = False,
) -> TrainState:
  """A state before its first step.

  Args:
    roles: without "reference" if it is refreshed.
    is_trainable: see `trees.split`.
    optimizer: of what trains.
    key: the root.
    average: keep a moving average.
    refreshed: keep a reference, the policy as it is now, that may change.
  """
  trainable, frozen = trees.split(roles, is_trainable)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen=frozen,
    opt_state=optimizer.init(trainable),
    key=key,
    # Copies: a donated state may not hold one array twice.
    average=jax.tree.map(jnp.copy, trainable) if average else None,
    reference=(
      jax.tree.map(jnp.copy, trainable["policy"]) if refreshed else None
    ),
    skipped=jnp.zeros((), jnp.int32),
  )
