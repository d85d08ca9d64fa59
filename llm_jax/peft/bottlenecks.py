"""Bottleneck adapters: small layers after the sublayers."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax import axes, keys
from llm_jax.config import field
from llm_jax.peft.method import Adapters
from llm_jax.peft.sites import Base

_STD = 0.02
_AFTER = {
  "houlsby": ("attention_adapter", "mlp_adapter"),
  "pfeiffer": ("mlp_adapter",),
}


@dataclasses.dataclass(frozen=True)
class Bottlenecks(Adapters):
  """y + relu(y down) up on what sublayers add to the residual stream.

  After both sublayers (Houlsby et al., arXiv:1902.00751, figure 2), or after
  the feed-forward only (Pfeiffer et al., arXiv:2005.00052). `up` begins at
  zero: training begins at the base.
  """

  placement: Literal["houlsby", "pfeiffer"] = field(
    "houlsby", "after both sublayers, or after the feed-forward only"
  )
  width: int = field(16, "R, of the bottleneck", low=1)

  def arrays(self, base: Base) -> dict[str, Any]:
    scale = base.like("blocks/mlp_norm/scale", "Bottlenecks")
    (L, D), R, dtype = scale.shape, self.width, scale.dtype
    out: dict[str, Any] = {}
    for name in _AFTER[self.placement]:
      down = jax.random.normal(keys.stream(base.key, name), (L, D, R), dtype)
      out[name] = {
        "down": axes.box(_STD * down, "LDR"),
        "down_bias": axes.box(jnp.zeros((L, R), dtype), "LR"),
        "up": axes.box(jnp.zeros((L, R, D), dtype), "LRD"),
        "up_bias": axes.box(jnp.zeros((L, D), dtype), "LD"),
      }
    return {"blocks": out}
