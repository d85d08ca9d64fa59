"""The smallest furniture for testing rooms with."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import axes, trees
from llm_jax import model as model_lib
from llm_jax.models.config import Experts, RopeScaling, TransformerConfig
from llm_jax.models.encoder_decoder_config import Encoder, EncoderDecoderConfig
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)

DIMS = chex.Dimensions(B=8, T=12, V=16, D=16)

CONFIG = TransformerConfig(
  num_layers=2,
  embed_dim=DIMS.D,
  mlp_dim=24,
  num_heads=4,
  num_kv_heads=2,
  vocab_size=DIMS.V,
  max_length=32,
)

SHAPES = {
  "llama": CONFIG,
  "gpt2": dataclasses.replace(
    CONFIG,
    num_kv_heads=0,
    norm="layer",
    norm_bias=True,
    qkv_bias=True,
    positions="learned",
    activation="gelu",
    out_bias=True,
    mlp_bias=True,
  ),
  "qwen3": dataclasses.replace(
    CONFIG,
    qk_norm=True,
    tied=False,
    num_kv_heads=1,
    head_dim=8,
    activation="geglu",
    rope_dim=4,
    rope_scaling=RopeScaling(
      "longrope",
      factor=4.0,
      original_length=8,
      short_factors=(1.0, 1.5),
      long_factors=(2.0, 3.0),
    ),
  ),
  "window": dataclasses.replace(
    CONFIG,
    window=4,
    activation="relu2",
    logit_softcap=5.0,
    positions="none",
  ),
  "gemma": dataclasses.replace(
    CONFIG,
    num_layers=3,
    norm_at="both",
    norm_from_one=True,
    embed_scale=True,
    activation="geglu_exact",
    attention_scale=0.4,
    attention_softcap=2.0,
    window=4,
    window_theta=100.0,
    full_layers=(1,),
    rope_scaling=RopeScaling(kind="linear", factor=4.0),
  ),
  "olmo": dataclasses.replace(
    CONFIG,
    norm_at="output",
    qk_norm=True,
    qk_norm_over="all",
    rope_scaling=RopeScaling(
      "yarn", factor=4.0, high_factor=32.0, original_length=8
    ),
  ),
  "relative": dataclasses.replace(
    CONFIG,
    norm_at="sum",
    embed_norm=True,
    positions="relative",
    relative_buckets=8,
    relative_distance=6,
    activation="relu",
    head_dense=True,
    head_bias=True,
    outputs=3,
    output_bias=True,
    output_dense="tanh",
  ),
  "moe": dataclasses.replace(
    CONFIG, mlp_dim=8, experts=Experts(num=4, per_token=2)
  ),
}

RECURRENT = {
  "lstm": RecurrentConfig(
    num_layers=2, embed_dim=DIMS.D, vocab_size=DIMS.V, max_length=32
  ),
  "gru": RecurrentConfig(
    num_layers=2,
    embed_dim=DIMS.D,
    vocab_size=DIMS.V,
    max_length=32,
    cell="gru",
    tied=False,
  ),
}


LISTENING = {
  "lstm": RecurrentEncoderDecoderConfig(
    num_layers=2,
    embed_dim=DIMS.D,
    vocab_size=DIMS.V,
    max_length=32,
    start_id=3,
    norm="none",
  ),
  "gru": RecurrentEncoderDecoderConfig(
    num_layers=2,
    embed_dim=DIMS.D,
    vocab_size=DIMS.V,
    max_length=32,
    start_id=3,
    cell="gru",
    directions="forward",
    score="dot",
    norm="rms",
    residual=True,
    tied=False,
  ),
}


def module(config):
  """The Flax module of a shape."""
  return model_lib.KINDS[type(config)].module(config)


_BOTH = {
  f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(CONFIG)
} | {"start_id": 3}
APART = {
  "t5": EncoderDecoderConfig(
    **_BOTH
    | {
      "positions": "relative",
      "relative_buckets": 8,
      "relative_distance": 6,
      "attention_scale": 1.0,
      "activation": "geglu",
      "tied": False,
      "head_scale": True,
      "encoder": Encoder(num_layers=3, mlp_dim=20),
    }
  ),
  "bart": EncoderDecoderConfig(
    **_BOTH
    | {
      "num_kv_heads": 0,
      "positions": "learned",
      "position_offset": 2,
      "norm": "layer",
      "norm_bias": True,
      "norm_at": "sum",
      "embed_norm": True,
      "qkv_bias": True,
      "out_bias": True,
      "mlp_bias": True,
      "head_bias": True,
      "embed_scale": True,
      "activation": "gelu_exact",
      "encoder": Encoder(num_heads=2),
    }
  ),
}


def build(config=CONFIG, seed=0):
  """(model, variables); float64 where x64 is on.

  Drawn by numpy, which compiles nothing; norms and biases are moved away from
  1 and 0, where mistakes would hide.
  """
  wide = jax.config.jax_enable_x64
  if wide:
    config = dataclasses.replace(config, dtype="float64")
  model = module(config)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
  )
  r = np.random.default_rng(seed)

  def draw(path, x):
    around = 1.0 if trees.path_string(path).endswith("scale") else 0.0
    x = around + 0.3 * r.normal(size=x.shape)
    return jnp.asarray(x, np.float64 if wide else np.float32)

  return model, jax.tree_util.tree_map_with_path(draw, axes.unbox(shapes))


def logp_and_grads(config, variables, batch, dtype="float64"):
  """Scores, and the gradient of their weighted sum, under jit."""
  model = module(dataclasses.replace(config, dtype=dtype))
  weight = np.random.default_rng(1).normal(size=batch["target_BT"].shape)

  def loss(v):
    logp_BT = model.apply(v, batch, method="score").logp_BT
    return (logp_BT * weight * batch["mask_BT"]).sum(), logp_BT

  return jax.jit(jax.grad(loss, has_aux=True))(variables)


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
