"""A Llama, LoRA, DoRA and IA3 are the libraries'; see goldens/make_peft.py.

Losses are the same to 1e-10 of themselves, gradients to 1e-10 of the largest
number of their leaf.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax import model as model_lib
from llm_jax.models.config import TransformerConfig
from llm_jax.ops import positions
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.method import CONSTANTS
from llm_jax.peft.sites import Base

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "peft.npz"
GOLD = dict(np.load(PATH))
CONFIG = TransformerConfig(
  num_layers=2,
  embed_dim=8,
  mlp_dim=12,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  vocab_size=16,
  max_length=8,
  tied=False,
  dtype="float64",
)
METHODS = {
  "lora": LoRA(rank=3, alpha=5.0),
  "stabilised": LoRA(rank=3, alpha=5.0, stabilised=True),
  "dora": LoRA(rank=3, alpha=5.0, dora=True),
  "ia3": IA3(),
}
# Our path -> the libraries' name.
SITES = {
  "embedding": "embed_tokens",
  "final_norm": "norm",
  "head": "lm_head",
  "blocks/attention_norm": "layers.input_layernorm",
  "blocks/mlp_norm": "layers.post_attention_layernorm",
  "blocks/attention/query": "layers.self_attn.q_proj",
  "blocks/attention/key": "layers.self_attn.k_proj",
  "blocks/attention/value": "layers.self_attn.v_proj",
  "blocks/attention/out": "layers.self_attn.o_proj",
  "blocks/mlp/gate": "layers.mlp.gate_proj",
  "blocks/mlp/up": "layers.mlp.up_proj",
  "blocks/mlp/down": "layers.mlp.down_proj",
}
LEAVES = {
  "a": ".lora_A",
  "b": ".lora_B",
  "magnitude": ".lora_magnitude_vector",
  "input_scale": ".ia3_l",
  "output_scale": ".ia3_l",
}


def golden(method, what, path, shape):
  """An array of ours as it is there; maps there are [outputs, inputs]."""
  site, _, leaf = path.rpartition("/")
  if path in SITES:
    x = GOLD[f"{method}/{what}/{SITES[path]}"]
    x = x.T if path == "head" else x
  elif method == "base":
    x = GOLD[f"{method}/{what}/{SITES[site]}"]
    x = x.swapaxes(-1, -2) if leaf == "kernel" else x
  else:
    x = GOLD[f"{method}/{what}/{SITES[site]}{LEAVES[leaf]}"]
    x = x.swapaxes(-1, -2) if leaf in ("a", "b") else x
  return x.reshape(shape)


def goldens(method, what, like):
  """A tree of them; settings stay."""

  def one(path, x):
    name = trees.path_string(path)
    if method != "base" and name.split("/")[-1] in CONSTANTS:
      return x
    return golden(method, what, name, x.shape)

  return jax.tree_util.tree_map_with_path(one, like)


def made(name, config=CONFIG, scale=1.0):
  """(model, params, adapters) with the libraries' numbers."""
  model = model_lib.of_shape(config)
  boxed = jax.eval_shape(model.init, jax.random.key(0))["params"]
  params = goldens("base", "value", axes.unbox(boxed))
  if name == "base":
    return model, params, {}
  base = Base(params, axes.suffixes(boxed), jax.random.key(0), list)
  adapters = goldens(name, "value", axes.unbox(METHODS[name].add(base)))

  def change(path, x):
    is_scale = trees.path_string(path).endswith("/scale")
    return x * scale if is_scale else x

  return model, params, jax.tree_util.tree_map_with_path(change, adapters)


def measured(name, **change):
  """Loss, and path -> gradient of what trains."""
  model, params, adapters = made(name, **change)
  tokens = GOLD["tokens"]
  batch = {"tokens_BT": tokens[:, :-1], "target_BT": tokens[:, 1:]}

  def loss(trained):
    both = {"params": params, "adapters": adapters} if adapters else {}
    role = "adapters" if adapters else "params"
    return -model.score(both | {role: trained}, batch).logp_BT.mean()

  value, found = jax.jit(jax.value_and_grad(loss))(adapters or params)
  flat = {
    path: np.asarray(x)
    for path, x in trees.paths(found)
    if not (adapters and path.split("/")[-1] in CONSTANTS)
  }
  return float(value), flat


@pytest.mark.parametrize("name", ["base", *METHODS])
def test_loss_and_gradients(name):
  with jax.enable_x64(True):
    loss, gradients = measured(name)
    np.testing.assert_allclose(loss, GOLD[f"{name}/loss"], rtol=1e-10)
    there = [x for x in GOLD if x.startswith(f"{name}/gradient/")]
    assert len(gradients) == len(there)
    for path, x in gradients.items():
      want = golden(name, "gradient", path, x.shape)
      most = 1e-10 * np.abs(want).max()
      np.testing.assert_allclose(x, want, rtol=0, atol=most, err_msg=path)


@pytest.mark.parametrize("name", ["lora", "stabilised", "dora"])
def test_a_wrong_scale_is_caught(name):
  """The mutant: alpha / R where sqrt(R) is meant, or the other way round."""
  with jax.enable_x64(True):
    wrong, _ = measured(
      name, scale=3 ** (-0.5 if name == "stabilised" else 0.5)
    )
    assert abs(wrong / GOLD[f"{name}/loss"] - 1) > 1e-3


def test_a_norm_that_is_differentiated_is_caught(monkeypatch):
  """The mutant: DoRA's gradient through the norm of the moved column."""
  monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
  with jax.enable_x64(True):
    loss, gradients = measured("dora")
    np.testing.assert_allclose(loss, GOLD["dora/loss"], rtol=1e-10)
    path = "blocks/mlp/up/a"
    got = gradients[path]
    want = golden("dora", "gradient", path, got.shape)
    assert np.abs(got - want).max() > 1e-3 * np.abs(want).max()


def test_another_llama_is_caught(monkeypatch):
  """Mutants: another epsilon, and neighbours turned by rotary angles."""
  with jax.enable_x64(True):
    want = GOLD["base/loss"]
    wrong, _ = measured("base", config=dataclasses.replace(CONFIG, norm_eps=0))
    assert abs(wrong / want - 1) > 1e-8

    def neighbours(x, cos, sin):
      a, b = x[..., ::2], x[..., 1::2]
      both = jax.numpy.stack([a * cos - b * sin, b * cos + a * sin], -1)
      return both.reshape(x.shape)

    monkeypatch.setattr(positions, "rotate", neighbours)
    wrong, _ = measured("base")
    assert abs(wrong / want - 1) > 1e-5
