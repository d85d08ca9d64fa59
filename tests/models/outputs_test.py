"""The output head: numbers of each position, beside the next token."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax.models import sizing, transformer
from tests import small
from tests.models import encoder_test

BATCH = small.causal_batch()
SHAPE = dataclasses.replace(small.CONFIG, outputs=2)


def test_what_the_head_says():
  """A matrix product of the last activations, and tokens are as without it."""
  with jax.enable_x64(True):
    model, variables = small.build(SHAPE)
    plain, _ = small.build(small.CONFIG)
    params = {
      k: v for k, v in variables["params"].items() if k != "output_head"
    }
    score = lambda m, v: jax.jit(lambda v: m.apply(v, BATCH, method="score"))(v)
    got, want = score(model, variables), score(plain, {"params": params})
    x_BTD = jax.jit(
      lambda v: plain.apply(
        v,
        BATCH["tokens_BT"],
        segment_BT=BATCH.get("segment_BT"),
        position_BT=BATCH.get("position_BT"),
      )
    )({"params": params})
    np.testing.assert_array_equal(got.logp_BT, want.logp_BT)
    assert want.output_BTO is None
    assert got.output_BTO.dtype == np.float64
    np.testing.assert_allclose(
      got.output_BTO,
      np.asarray(x_BTD) @ variables["params"]["output_head"],
      rtol=1e-12,
    )


def test_its_size_and_its_beginning():
  """Normal of variance 1 / (D + 1), and counted. arXiv:2009.01325, B.1."""
  wide = dataclasses.replace(SHAPE, embed_dim=64, num_heads=4, outputs=16)
  boxed = transformer.Decoder(wide).init(
    jax.random.key(0), np.zeros((1, 1), np.int32)
  )
  params = axes.unbox(boxed)["params"]
  head = np.asarray(params["output_head"])
  assert abs(head.std() * 65**0.5 - 1) < 0.05
  assert sizing.parameters(wide).total == trees.size(params)


BERT = dataclasses.replace(
  encoder_test.ENCODERS["bert"], outputs=3, output_bias=True
)
# What the head reads of the last activations x.
HEADS = {
  "none": lambda p, x: x,
  "tanh": lambda p, x: np.tanh(
    x @ p["output_dense"]["kernel"] + p["output_dense"]["bias"]
  ),
  "head": lambda p, x: (
    normal(gelu(x @ p["head_dense"]["kernel"] + p["head_dense"]["bias"]))
    * p["head_norm"]["scale"]
    + p["head_norm"]["bias"]
  ),
}


def gelu(x):
  erf = np.vectorize(math.erf)
  return x * (1 + erf(x / 2**0.5)) / 2


def normal(x):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + BERT.norm_eps)


@pytest.mark.parametrize("dense", HEADS)
def test_heads_of_the_families_are_settings(dense):
  """By numpy; the mutants leave out the bias, or what comes before."""
  shape = dataclasses.replace(BERT, output_dense=dense)
  with jax.enable_x64(True):
    model, variables = small.build(shape)
    score = jax.jit(lambda v: model.apply(v, BATCH, method="score").output_BTO)
    read = jax.jit(lambda v: model.apply(v, BATCH["tokens_BT"]))
    got, x_BTD = np.asarray(score(variables)), np.asarray(read(variables))
  params = jax.tree.map(np.asarray, variables["params"])
  said = lambda x: x @ params["output_head"]
  bias = params["output_bias"]
  want = said(HEADS[dense](params, x_BTD)) + bias
  np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
  assert np.abs(got - (want - bias)).max() > 1e-2
  if dense != "none":
    assert np.abs(got - (said(x_BTD) + bias)).max() > 1e-2
  assert sizing.parameters(shape).total == trees.size(variables["params"])
  known = {p.split("/")[0] for p, _ in trees.paths(params)}
  assert ("output_dense" in known) == (dense == "tanh")


@pytest.mark.parametrize("cell", small.RECURRENT)
def test_a_recurrent_model_has_a_bias_there_too(cell):
  shape = dataclasses.replace(
    small.RECURRENT[cell], outputs=2, output_bias=True
  )
  model, variables = small.build(shape)
  score = jax.jit(lambda v: model.apply(v, BATCH, method="score").output_BTO)
  moved = {**variables["params"], "output_bias": np.zeros(2)}
  apart = score(variables) - score({"params": moved})
  want = np.broadcast_to(variables["params"]["output_bias"], apart.shape)
  np.testing.assert_allclose(apart, want, atol=1e-6)
  assert sizing.parameters(shape).total == trees.size(variables["params"])


def test_the_heads_of_another_are_refused_without_it():
  with pytest.raises(ValueError, match="--model.output_dense=head: the head"):
    dataclasses.replace(small.CONFIG, outputs=1, output_dense="head")
