"""LoRA, DoRA and IA3 are the `peft` library's; see goldens/make_peft.py."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.models.mlp import MLP
from llm_jax.peft.lora import LoRA
from tests import small

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "peft.npz"
GOLD = dict(np.load(PATH))
LORA = LoRA(rank=3, alpha=5.0)
SCALES = {
  "lora": LORA.scale,
  "stabilised": dataclasses.replace(LORA, stabilised=True).scale,
  "dora": LORA.scale,
}
NAMES = {
  "lora_A": "a",
  "lora_B": "b",
  "lora_magnitude_vector": "magnitude",
}


def ours(name, x):
  """(map, leaf), and the array as we hold it."""
  site, kind, *_ = name.split(".")
  if kind == "ia3_l":
    leaf = "input_scale" if x.shape[0] == 1 else "output_scale"
    return f"{site}/{leaf}", x.reshape(-1)
  return f"{site}/{NAMES[kind]}", x.T


def read(method, what):
  out = {}
  for path, x in GOLD.items():
    if path.startswith(f"{method}/{what}/"):
      trees.put(out, *ours(path.removeprefix(f"{method}/{what}/"), x))
  return out


def loss_and_gradients(method, change=1.0):
  """Ours; the mutants change the scale."""
  config = dataclasses.replace(
    small.CONFIG,
    embed_dim=6,
    mlp_dim=10,
    num_heads=1,
    num_kv_heads=1,
    dtype="float64",
  )
  kernels = {n: {"kernel": GOLD[f"base/{n}"].T} for n in ("gate", "up", "down")}

  def loss(adapters):
    if method in SCALES:
      scale = np.float64(change * SCALES[method])
      adapters = {n: a | {"scale": scale} for n, a in adapters.items()}
    y = MLP(config).apply(
      {"params": kernels, "adapters": adapters}, GOLD["x"][None]
    )
    return ((y[0] - GOLD["target"]) ** 2).sum()

  return jax.jit(jax.value_and_grad(loss))(read(method, "value"))


@pytest.mark.parametrize("method", ["lora", "stabilised", "dora", "ia3"])
def test_loss_and_gradients(method):
  with jax.enable_x64(True):
    loss, gradients = loss_and_gradients(method)
    np.testing.assert_allclose(loss, GOLD[f"{method}/loss"], rtol=1e-10)
    want = dict(trees.paths(read(method, "gradient")))
    got = dict(trees.paths(gradients))
    assert got.keys() == want.keys() and len(want) >= 2
    for path, x in want.items():
      np.testing.assert_allclose(got[path], x, rtol=1e-10, err_msg=path)
    if method in SCALES:  # the mutant: alpha / R where sqrt(R) is meant, ...
      wrong, _ = loss_and_gradients(method, 3**0.5)
      assert abs(wrong / loss - 1) > 1e-3


def test_a_norm_that_is_differentiated_is_caught(monkeypatch):
  """The mutant: DoRA's gradient through the norm of the moved column."""
  monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
  with jax.enable_x64(True):
    loss, gradients = loss_and_gradients("dora")
    np.testing.assert_allclose(loss, GOLD["dora/loss"], rtol=1e-10)
    want = read("dora", "gradient")["up"]["a"]
    assert np.abs(gradients["up"]["a"] / want - 1).max() > 1e-3
