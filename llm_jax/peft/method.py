"""What every way of moving only some of the weights has in common."""

import dataclasses
from typing import Any

from llm_jax.peft.sites import Base

# Leaves of collection "adapters" that are settings, not weights.
CONSTANTS = ("scale", "dropout")


@dataclasses.dataclass(frozen=True)
class Method:
  """Adds arrays to a base, and says which arrays train.

  The base's variables are {"params": ...}; a method's own arrays are a second
  collection, "adapters", of the same structure. The base without that
  collection is the base untouched, which is also the reference policy.
  """

  @property
  def places(self) -> int:
    """Places that virtual tokens take before each document."""
    return 0

  def add(self, base: Base) -> dict[str, Any]:
    """The collection "adapters" for a base, boxed; {} where there is none.

    Raises:
      ValueError: a pattern matches nothing.
    """
    return {}

  def is_trainable(self, path: str) -> bool | int:
    """Whether "params/..." or "adapters/..." trains; see `trees.split`."""
    collection, _, rest = path.partition("/")
    return collection == "adapters" and rest.split("/")[-1] not in CONSTANTS


@dataclasses.dataclass(frozen=True)
class Full(Method):
  """Every weight moves."""

  def is_trainable(self, path: str) -> bool | int:
    return True
