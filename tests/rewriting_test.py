"""A model in T5's words says what it said, and T5's table has it."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax import exporting, rewriting
from llm_jax.interop import heads
from llm_jax.models.encoder_decoder_config import Encoder
from tests import small
from tests.models.encoder_decoder_test import batch

OWN = dataclasses.replace(
  small.APART["t5"],
  attention_scale=None,
  tied=True,
  head_scale=False,
  num_kv_heads=0,
  norm_bias=False,
  encoder=Encoder(num_layers=3),
)


def logp(shape, params, rows):
  model, variables = small.build(shape)
  params = variables["params"] if params is None else params
  score = jax.jit(lambda p: model.apply({"params": p}, rows, method="score"))
  return np.asarray(score(params).logp_BT)


@pytest.mark.parametrize(
  "change", [{}, {"tied": False}, {"attention_scale": 0.7}]
)
def test_it_says_the_same(change):
  own = dataclasses.replace(OWN, **change)
  its = rewriting.settings(exporting.settings_of(own))
  family, said = exporting.described(its)
  assert family.name == "t5" and not said["tie_word_embeddings"]
  theirs = dataclasses.replace(own, attention_scale=1.0, tied=False)
  with jax.enable_x64(True):
    rows = batch()
    _, variables = small.build(own)
    params, dims = rewriting.params(
      exporting.settings_of(own), variables["params"], {"head": None}
    )
    assert dims["head"] == ("DV" if own.tied else None)
    wanted = logp(own, None, rows)
    np.testing.assert_allclose(logp(theirs, params, rows), wanted, atol=1e-12)
    # Mutant: queries as they are.
    queries = variables["params"]["blocks"]["cross"]["query"]
    params["blocks"]["cross"]["query"] = queries
    assert np.abs(logp(theirs, params, rows) - wanted).max() > 1e-3


@pytest.mark.parametrize("tied", [True, False])
def test_what_says_numbers_has_no_head_for_tokens(tied):
  """And its table is written once, whatever that head was."""
  own = dataclasses.replace(
    OWN, tied=tied, outputs=3, output_bias=True, output_dense="tanh"
  )
  found = exporting.settings_of(own)
  its = rewriting.settings(found)
  family, said = exporting.described(its)
  assert said["architectures"] == ["T5ForSequenceClassification"]
  lines = heads.lines(family, its, said["architectures"][0])
  names = {line.name for line in lines}
  assert {"transformer.shared.weight", "classification_head.dense.bias"} < names
  assert not any("lm_head" in name for name in names)
  params, _ = rewriting.params(found, {"embedding": np.ones((2, 2))}, {})
  assert "head" not in params


@pytest.mark.parametrize("shape", [small.APART["bart"], small.CONFIG])
def test_others_are_left_as_they_are(shape):
  found = exporting.settings_of(shape)
  assert rewriting.settings(found) == found
  params, suffixes = {"embedding": 1}, {"embedding": "WE"}
  assert rewriting.params(found, params, suffixes) == (params, suffixes)
