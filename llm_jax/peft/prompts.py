"""Soft prompts: virtual tokens before the text, or keys and values before it.

Dimension key: X virtual tokens; D residual.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax import axes, keys
from llm_jax.config import field
from llm_jax.peft.method import Adapters
from llm_jax.peft.sites import Base


@dataclasses.dataclass(frozen=True)
class Prompt(Adapters):
  """X embeddings before each document, learned. arXiv:2104.08691.

  They come from a text, repeated or cut to X tokens; from rows of the
  embedding drawn at random; or from the uniform distribution within 0.5
  (section 3.2 there).
  """

  tokens: int = field(20, "X, virtual tokens", low=1)
  init: Literal["text", "vocabulary", "random"] = field(
    "text", "what the virtual tokens begin as"
  )
  text: str = field("Answer the question.", "for init=text")

  @property
  def places(self) -> int:
    return self.tokens

  def arrays(self, base: Base) -> dict[str, Any]:
    table_WE, X = base.params["embedding"], self.tokens
    if self.init == "random":
      shape = (X, table_WE.shape[1])
      rows = jax.random.uniform(base.key, shape, table_WE.dtype, -0.5, 0.5)
    elif self.init == "vocabulary":
      if X > len(table_WE):
        raise ValueError(
          f"--peft.tokens={X}: more than the {len(table_WE)} rows of the"
          " embedding; --peft.init=random = none of them"
        )
      ids = jax.random.choice(base.key, len(table_WE), (X,), replace=False)
      rows = table_WE[ids]
    else:
      text = list(base.encode(self.text))
      if not text:
        raise ValueError("--peft.text: is empty; --peft.init=vocabulary = none")
      rows = table_WE[jnp.array([text[i % len(text)] for i in range(X)])]
    return {"prompt": axes.box(rows, "XD")}


@dataclasses.dataclass(frozen=True)
class Prefix(Adapters):
  """X keys and values before the text in each layer. arXiv:2101.00190.

  Differs from the paper: the keys and values are learned themselves, not
  through a network that makes them.
  """

  tokens: int = field(20, "X, virtual tokens", low=1)
  std: float = field(0.02, "of normal initial keys and values", low=0)

  def arrays(self, base: Base) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in ("key", "value"):
      kernel = base.like(f"blocks/attention/{name}/kernel", "Prefix")
      L, _, K, H = kernel.shape
      new = jax.random.normal(
        keys.stream(base.key, name), (L, self.tokens, K, H), kernel.dtype
      )
      out[f"prefix_{name}"] = axes.box(self.std * new, "LXKH")
    return {"blocks": {"attention": out}}
