"""What torch.nn.LSTM and torch.nn.GRU say, in float64.

Arrays by `goldens/make_recurrent.py`.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.models import recurrent
from llm_jax.models.recurrent_config import RecurrentConfig

FILE = pathlib.Path(__file__).parent.parent / "goldens" / "recurrent.npz"
LAYERS = 2
CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])


@functools.cache
def golden(cell):
  with np.load(FILE) as file:
    return {
      k.removeprefix(f"{cell}/"): v
      for k, v in file.items()
      if k.startswith(f"{cell}/")
    }


def kernel(theirs, name, prefix=""):
  """[gates A, D] of each layer -> LDJA."""
  layers = [theirs[f"{prefix}weight_{name}_l{i}"] for i in range(LAYERS)]
  D = layers[0].shape[1]
  return np.stack([w.T.reshape(D, -1, D) for w in layers])


def bias(theirs, name, prefix=""):
  layers = [theirs[f"{prefix}bias_{name}_l{i}"] for i in range(LAYERS)]
  D = theirs["x"].shape[2]
  return np.stack([b.reshape(-1, D) for b in layers])


def params(theirs, prefix=""):
  """Theirs in our tree; an LSTM's two biases are one of ours."""
  maps = {
    ours: {
      "kernel": kernel(theirs, name, prefix),
      "bias": bias(theirs, name, prefix),
    }
    for ours, name in (("input", "ih"), ("recurrent", "hh"))
  }
  if len(theirs["weight_ih_l0"]) == 4 * theirs["x"].shape[2]:
    other = maps["recurrent"].pop("bias")
    # Each has the gradient of their sum.
    maps["input"]["bias"] = maps["input"]["bias"] + (0 if prefix else other)
  return maps


def everything(cell, theirs, given):
  """Loss, what is said, last states; and gradients of parameters and inputs."""
  config = RecurrentConfig(
    num_layers=LAYERS, embed_dim=3, cell=cell, dtype="float64"
  )
  layers = recurrent.stack(config)(config)
  weights = [theirs[f"weight_{i}"] for i in range(3) if f"weight_{i}" in theirs]

  def loss(given):
    params, x_BTD, state = given
    said_BTD, last = layers.apply(
      {"params": params}, x_BTD, state, recurrent.Marks()
    )
    last = tuple(s.swapaxes(0, 1) for s in last)
    found = (said_BTD, *last)
    total = sum((w * a).sum() for w, a in zip(weights, found, strict=True))
    return total, found

  return jax.jit(jax.grad(loss, has_aux=True))(given)


def states(theirs, prefix=""):
  names = [n for n in ("h", "c") if f"{prefix}{n}" in theirs]
  return tuple(theirs[prefix + n].swapaxes(0, 1) for n in names)


def given_of(cell, theirs):
  state = states(theirs)[: 2 if cell == "lstm" else 1]
  return params(theirs), theirs["x"], state


@CELLS
def test_outputs_states_and_gradients_are_torchs(cell):
  theirs = golden(cell)
  with jax.enable_x64(True):
    grads, found = everything(cell, theirs, given_of(cell, theirs))
  want = [theirs["said"], theirs["last_0"]]
  want += [theirs["last_1"]] if cell == "lstm" else []
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
  dparams, dx, dstate = grads
  expected = dict(trees.paths(params(theirs, "d_")))
  assert expected.keys() == dict(trees.paths(dparams)).keys()
  for path, x in trees.paths(dparams):
    np.testing.assert_allclose(x, expected[path], rtol=1e-12, atol=1e-14)
  np.testing.assert_allclose(dx, theirs["d_x"], rtol=1e-12, atol=1e-14)
  for a, b in zip(dstate, states(theirs, "d_"), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@CELLS
def test_mutants_gates_in_another_order_and_kernels_transposed(cell):
  theirs = golden(cell)
  maps, x, state = given_of(cell, theirs)
  turned = jax.tree.map(lambda w: np.roll(w, 1, axis=-2), maps)
  flipped = {
    k: v | {"kernel": v["kernel"].swapaxes(1, 3)} for k, v in maps.items()
  }
  with jax.enable_x64(True):
    for wrong in (turned, flipped):
      _, found = everything(cell, theirs, (wrong, jnp.asarray(x), state))
      assert np.abs(found[0] - theirs["said"]).max() > 1e-3
