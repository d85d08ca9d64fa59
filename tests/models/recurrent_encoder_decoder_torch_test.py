"""What a sequence-to-sequence LSTM and GRU with attention say, by torch.

Arrays by `goldens/make_recurrent_encoder_decoder.py`, in float64.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.models import recurrent_encoder
from llm_jax.models.recurrent_encoder_decoder import RecurrentEncoderDecoder
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
FILE = GOLDENS / "recurrent_encoder_decoder.npz"
LAYERS, D = 2, 4
NAMES = (
  "lstm_both_general",
  "gru_both_dot",
  "lstm_forward_dot",
  "gru_forward_general",
)
EVERY = pytest.mark.parametrize("name", NAMES)


@functools.cache
def golden(name):
  with np.load(FILE) as file:
    own = [k for k in file if k.startswith(f"{name}/")]
    return {k.partition("/")[2]: file[k] for k in own}


def stack(theirs, module, gradient):
  """Theirs in our tree; an LSTM's two biases are one of ours."""
  prefix = f"d/{module}." if gradient else f"{module}."
  kinds = {"input": "ih", "recurrent": "hh"}
  out = {}
  for ours, end in (("", ""), ("back_", "_reverse")):
    if f"{prefix}weight_ih_l0{end}" not in theirs:
      continue
    for map_, kind in kinds.items():
      named = lambda what, k=kind, e=end: [
        theirs[f"{prefix}{what}_{k}_l{i}{e}"] for i in range(LAYERS)
      ]
      A = theirs[f"{prefix}weight_hh_l0{end}"].shape[1]
      kernel = [w.T.reshape(w.shape[1], -1, A) for w in named("weight")]
      bias = [b.reshape(-1, A) for b in named("bias")]
      out[ours + map_] = {"kernel": np.stack(kernel), "bias": np.stack(bias)}
    if out[f"{ours}input"]["bias"].shape[1] == 4:
      other = out[f"{ours}recurrent"].pop("bias")
      # Each has the gradient of their sum.
      out[f"{ours}input"]["bias"] += 0 if gradient else other
  return out


def params(theirs, gradient=False):
  of = lambda name: theirs[f"d/{name}.weight" if gradient else f"{name}.weight"]
  found, own = np.split(of("combine").T, 2)
  attention = {"found": {"kernel": found}, "own": {"kernel": own}}
  if "general.weight" in theirs:
    attention["key"] = {"kernel": of("general").T}
  return {
    "embedding": of("table"),
    "encoder": {"blocks": stack(theirs, "encoder", gradient)},
    "blocks": stack(theirs, "writer", gradient),
    "attention": attention,
  }


def everything(name, weights, unread=0):
  """Logits, and the gradients of their weighted sum; `unread` marks padding."""
  theirs = golden(name)
  cell, directions, score = name.split("_")
  config = RecurrentEncoderDecoderConfig(
    num_layers=LAYERS,
    embed_dim=D,
    vocab_size=len(weights["embedding"]),
    cell=cell,
    directions=directions,
    score=score,
    norm="none",
    dtype="float64",
  )
  model = RecurrentEncoderDecoder(config)
  source_BS = theirs["source"].astype(np.int32)
  real_BS = np.arange(source_BS.shape[1]) < theirs["sizes"][:, None]

  def loss(weights):
    x_BTD = model.apply(
      {"params": weights},
      theirs["target"].astype(np.int32),
      source_BS=source_BS,
      source_segment_BS=np.where(real_BS, 1, unread),
    )
    logits_BTV = x_BTD @ weights["embedding"].T
    return (logits_BTV * theirs["weight"]).sum(), logits_BTV

  return jax.jit(jax.grad(loss, has_aux=True))(weights)


@EVERY
def test_logits_and_gradients_are_torchs(name):
  theirs = golden(name)
  with jax.enable_x64(True):
    grads, logits_BTV = everything(name, params(theirs))
  np.testing.assert_allclose(
    logits_BTV, theirs["logits"], rtol=1e-10, atol=1e-13
  )
  want = dict(trees.paths(params(theirs, gradient=True)))
  got = dict(trees.paths(grads))
  assert got.keys() == want.keys()
  for path, x in got.items():
    np.testing.assert_allclose(
      x, want[path], rtol=1e-10, atol=1e-13, err_msg=path
    )


def moved(name, weights=None, **how):
  """How far logits are from torch's."""
  theirs = golden(name)
  with jax.enable_x64(True):
    _, found = everything(name, weights or params(theirs), **how)
  return np.abs(np.asarray(found) - theirs["logits"]).max()


@pytest.mark.parametrize("name", NAMES[:2])
def test_mutants(name, monkeypatch):
  """Each is further from torch than any rounding."""
  whole = params(golden(name))
  assert moved(name, unread=1) > 1e-3  # padding is read and attended to
  turned = jax.tree.map(lambda w: np.roll(w, 1, axis=-2), whole["blocks"])
  assert moved(name, whole | {"blocks": turned}) > 1e-3  # gates
  its = whole["encoder"]["blocks"]
  ways = ("input", "recurrent")
  crossed = {w: its[f"back_{w}"] for w in ways}
  crossed |= {f"back_{w}": its[w] for w in ways}
  assert moved(name, whole | {"encoder": {"blocks": crossed}}) > 1e-3
  mixed = dict(zip(("own", "found"), whole["attention"].values(), strict=False))
  mixed = whole["attention"] | mixed  # [h; c] for [c; h]
  assert moved(name, whole | {"attention": mixed}) > 1e-3
  take = jnp.take_along_axis
  nothing = lambda x, at, axis: 0 * take(x, at, axis)  # no state is handed over
  monkeypatch.setattr(recurrent_encoder.jnp, "take_along_axis", nothing)
  assert moved(name) > 1e-3
