"""Ids -> activations -> scores of given targets, whatever is in between.

Dimension key: B sequences; T positions; D residual; V vocabulary; X virtual
tokens; G special tokens.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_jax import axes
from llm_jax.contracts import Batch, Scores
from llm_jax.models import heads
from llm_jax.ops.routing import real_tokens, Routing


class LanguageModel(nn.Module):
  """A table of embeddings and a head; a model of a kind adds `read`."""

  config: Any  # a `models.shape.Shape`

  def make_table(self) -> None:
    """The embedding; part of `setup`."""
    c = self.config
    normal = nn.initializers.normal(c.init_std)
    self.embedding_WE = self.param(
      "embedding", axes.init(normal, "WE"), (c.vocab_size, c.embed_dim)
    )
    self.embed_dropout = nn.Dropout(c.dropout)

  def make_heads(self) -> None:
    """What speaks of each position; part of `setup`."""
    c = self.config
    if not c.tied:
      normal = nn.initializers.normal(c.init_std)
      self.head_DV = self.param(
        "head", axes.init(normal, "DV"), (c.embed_dim, c.vocab_size)
      )
    if c.head_bias:
      zeros = axes.init(nn.initializers.zeros, "V")
      self.bias_V = self.param("head_bias", zeros, (c.vocab_size,))
    if c.outputs:  # arXiv:2009.01325, appendix B.1
      small = nn.initializers.normal((c.embed_dim + 1) ** -0.5)
      self.output_head_DO = self.param(
        "output_head", axes.init(small, "DO"), (c.embed_dim, c.outputs)
      )
      if c.output_bias:
        zeros = axes.init(nn.initializers.zeros, "O")
        self.output_bias_O = self.param("output_bias", zeros, (c.outputs,))

  def read(
    self, batch: Batch, real_BT: jax.Array | None = None
  ) -> tuple[jax.Array, Routing | None]:
    """Activations, and how the tokens of `real_BT` went to experts."""
    raise NotImplementedError

  def before_head(self, x_BTD: jax.Array) -> jax.Array:
    """Activations as the head reads them."""
    return x_BTD

  def before_outputs(self, x_BTD: jax.Array) -> jax.Array:
    """Activations as the output head reads them."""
    return x_BTD

  def __call__(self, tokens_BT: jax.Array, **others: jax.Array) -> jax.Array:
    """Activations x_BTD after the last norm, of rows or packed documents.

    Args:
      tokens_BT: ids.
      **others: what else a batch says of them. `segment_BT`, the document of
        each, 0 = padding, without which a row is one; `position_BT`, the place
        within it, without which it is that in the row; `type_BT`, its kind,
        without which it is 0; `prompt_BT`, True where the next token is part
        of a prompt.
    """
    x_BTD, _ = self.read({"tokens_BT": tokens_BT, **others})
    if self.is_initializing():
      self.before_head(x_BTD)
      self.before_outputs(x_BTD)
    return x_BTD

  def score(
    self,
    batch: Batch,
    *,
    entropy: bool = False,
    hits: bool = False,
    temperature: float = 1.0,
  ) -> Scores:
    """Scores `target_BT` given `tokens_BT` up to each position.

    What the output head says of a position, it says of the text up to it.
    """
    x_BTD, routing = self.read(
      batch, real_tokens(batch) if self.config.num_experts else None
    )
    scores = heads.token_scores(
      self.before_head(x_BTD),
      self.kernel_DV(),
      batch["target_BT"],
      softcap=self.config.logit_softcap,
      chunk=self.config.head_chunk,
      entropy=entropy,
      hits=hits,
      special_GD=self.special_head(),
      bias_V=self.bias_V if self.config.head_bias else None,
      asked_BT=batch.get("asked_BT"),
      temperature=temperature,
    )._replace(routing=routing)
    if not self.config.outputs:
      return scores
    output_BTO = heads.outputs(
      self.before_outputs(x_BTD),
      self.output_head_DO,
      self.output_bias_O if self.config.output_bias else None,
    )
    return scores._replace(output_BTO=output_BTO)

  def logits(self, x_BD: jax.Array) -> jax.Array:
    """Of the next token, or of the one there, in float32 or wider."""
    return heads.logits(
      self.before_head(x_BD),
      self.kernel_DV(),
      self.config.logit_softcap,
      self.special_head(),
      self.bias_V if self.config.head_bias else None,
    )

  def embed(self, tokens_BT: jax.Array) -> jax.Array:
    """Rows of the table, with what an adapter adds to special tokens'."""
    x_BTE = self.embedding_WE.astype(self.config.dtype)[tokens_BT]
    special_GE: jax.Array | None = self.get_variable("adapters", "special")
    if special_GE is None:
      return x_BTE
    G = len(special_GE)
    added_BTE = special_GE.astype(x_BTE.dtype)[jnp.minimum(tokens_BT, G - 1)]
    return x_BTE + jnp.where(tokens_BT[..., None] < G, added_BTE, 0)

  def dropped(self, x_BTD: jax.Array) -> jax.Array:
    """Embeddings as the first layer reads them."""
    x_BTD = self.embed_dropout(x_BTD, deterministic=not self.has_rng("dropout"))
    return axes.constrain(x_BTD, "BTD")

  def special_head(self) -> jax.Array | None:
    """What an adapter adds to the head of special tokens, [G, D]."""
    name = "special" if self.config.tied else "special_head"
    added_GD: jax.Array | None = self.get_variable("adapters", name)
    return None if added_GD is None else added_GD.astype(self.config.dtype)

  def prompt(self) -> jax.Array | None:
    """Embeddings of a soft prompt (arXiv:2104.08691), if there is one."""
    prompt_XD: jax.Array | None = self.get_variable("adapters", "prompt")
    return None if prompt_XD is None else prompt_XD.astype(self.config.dtype)

  def kernel_DV(self) -> jax.Array:
    """The head, in the dtype of activations."""
    dtype = jnp.dtype(self.config.dtype)
    if self.config.tied:
      # Else the compiler gathers the gradients of logits by the vocabulary.
      return axes.constrain(self.embedding_WE.astype(dtype).T, "_V")
    return self.head_DV.astype(dtype)

  def source(self, batch: Batch) -> jax.Array:
    """Ids of what an encoder reads; ValueError where there are none."""
    if "source_BS" in batch:
      return batch["source_BS"]
    if not self.is_initializing():
      raise ValueError(
        "--data.source.length=0: an encoder-decoder reads a source of its own"
      )
    return batch["tokens_BT"]

  def check_length(self, length: int, prompt: int) -> None:
    """ValueError where a row is longer than the model's longest."""
    if length + prompt > self.config.max_length:
      soft = f" after {prompt} virtual ones" if prompt else ""
      raise ValueError(
        f"a row of {length} tokens{soft} is longer than"
        f" --model.max_length={self.config.max_length}"
      )
