"""What every way of moving only some of the weights has in common."""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp

from llm_jax import axes
from llm_jax.config import field
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
class Adapters(Method):
  """New arrays beside a base that does not move.

  A base that has read nothing but texts has never met the tokens of a chat.
  While their embeddings stay as they were made it cannot learn to say them,
  the one that ends an answer least of all.
  """

  special_tokens: int = field(
    0,
    "what is added to the embeddings of the first so many ids trains, too; 12"
    " = all special tokens, 0 = none",
    low=0,
  )

  def add(self, base: Base) -> dict[str, Any]:
    out = self.arrays(base)
    if self.special_tokens:
      table = base.params["embedding"]
      if self.special_tokens > len(table):
        raise ValueError(
          f"--peft.special_tokens={self.special_tokens}: the model has"
          f" {len(table)} tokens"
        )
      new = jnp.zeros((self.special_tokens, table.shape[1]), table.dtype)
      out["special"] = axes.box(new, "GE")
      if "head" in base.params:
        out["special_head"] = axes.box(new, "GE")
    return out

  @abc.abstractmethod
  def arrays(self, base: Base) -> dict[str, Any]:
    """The method's own part of the collection "adapters", boxed.

    Raises:
      ValueError: a pattern matches nothing.
    """


@dataclasses.dataclass(frozen=True)
class Full(Method):
  """Every weight moves."""

  def is_trainable(self, path: str) -> bool | int:
    return True
