"""Soft prompts: virtual tokens before the text, or keys and values before it.

Dimension key: X virtual tokens; D residual.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from llm_jax import axes, keys, trees
from llm_jax.config import field
from llm_jax.peft.method import Method


@dataclasses.dataclass(frozen=True)
class Prompt(Method):
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

  def add(
    self,
    params: Any,
    suffixes: Any,
    key: jax.Array,
    encode: Callable[[str], Sequence[int]],
  ) -> dict[str, Any]:
    del suffixes
    table_WE, X = params["embedding"], self.tokens
    if self.init == "random":
      shape = (X, table_WE.shape[1])
      rows = jax.random.uniform(key, shape, table_WE.dtype, -0.5, 0.5)
    elif self.init == "vocabulary":
      ids = jax.random.choice(key, len(table_WE), (X,), replace=False)
      rows = table_WE[ids]
    else:
      text = list(encode(self.text))
      if not text:
        raise ValueError("--peft.text: is empty; --peft.init=vocabulary = none")
      rows = table_WE[jnp.array([text[i % len(text)] for i in range(X)])]
    return {"prompt": axes.box(rows, "XD")}


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
  """X keys and values before the text in each layer. arXiv:2101.00190.

  Differs from the paper: the keys and values are learned themselves, not
  through a network that makes them.
  """

  tokens: int = field(20, "X, virtual tokens", low=1)
  std: float = field(0.02, "of normal initial keys and values", low=0)

  def add(
    self,
    params: Any,
    suffixes: Any,
    key: jax.Array,
    encode: Callable[[str], Sequence[int]],
  ) -> dict[str, Any]:
    del suffixes, encode
    out: dict[str, Any] = {}
    for name in ("key", "value"):
      kernel = trees.get(params, f"blocks/attention/{name}/kernel")
      L, _, K, H = kernel.shape
      new = jax.random.normal(
        keys.stream(key, name), (L, self.tokens, K, H), kernel.dtype
      )
      out[f"prefix_{name}"] = axes.box(self.std * new, "LXKH")
    return {"blocks": {"attention": out}}
