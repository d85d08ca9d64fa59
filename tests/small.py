"""The smallest furniture for testing rooms with."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import axes
from llm_jax.models import transformer
from llm_jax.models.config import TransformerConfig

DIMS = chex.Dimensions(B=8, T=12, V=16, D=16)

CONFIG = TransformerConfig(
    num_layers=2,
    embed_dim=DIMS.D,
    mlp_dim=24,
    num_heads=4,
    num_kv_heads=2,
    vocab_size=DIMS.V,
    max_length=32,
    init_std=0.3,  # far from uniform, or mistakes would hide
)

SHAPES = {
    "llama": CONFIG,
    "gpt2": dataclasses.replace(
        CONFIG, num_kv_heads=0, norm="layer", norm_bias=True, qkv_bias=True,
        positions="learned", activation="gelu", out_bias=True, mlp_bias=True,
    ),
    "qwen3": dataclasses.replace(
        CONFIG, qk_norm=True, tied=False, num_kv_heads=1, head_dim=8,
        activation="geglu",
    ),
    "window": dataclasses.replace(
        CONFIG, window=4, activation="relu2", logit_softcap=5.0,
        positions="none",
    ),
}


def build(config=CONFIG, seed=0):
  """(model, variables); float64 where x64 is on."""
  if jax.config.jax_enable_x64:
    config = dataclasses.replace(config, dtype="float64")
  model = transformer.Decoder(config)
  variables = axes.unbox(
      jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 4), jnp.int32))
  )
  # Norms and biases start at exactly 1 and 0; move them, so they are tested.
  leaves, tree = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  leaves = [
      (x + 0.1 * jax.random.normal(k, x.shape)).astype(
          jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
      )
      for k, x in zip(keys, leaves, strict=True)
  ]
  return model, jax.tree.unflatten(tree, leaves)


def score_fn(model):
  """contracts.Score of a model."""

  def score(variables, batch, *, key=None, entropy=False, hits=False):
    rngs = {} if key is None else {"dropout": key}
    return model.apply(
        variables, batch, entropy=entropy, hits=hits, rngs=rngs, method="score"
    )

  return score


def causal_batch(seed=0, ragged=True):
  """tokens_BT, target_BT, mask_BT of DIMS."""
  r = np.random.default_rng(seed)
  tokens = r.integers(0, DIMS.V, (DIMS.B, DIMS.T + 1)).astype(np.int32)
  length = r.integers(1, DIMS.T + 1, DIMS.B)
  if not ragged:
    length[:] = DIMS.T
  mask = np.arange(DIMS.T)[None] < length[:, None]
  return {
      "tokens_BT": tokens[:, :-1],
      "target_BT": tokens[:, 1:],
      "mask_BT": mask,
  }
