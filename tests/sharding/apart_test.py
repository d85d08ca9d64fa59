"""Steps of encoder-decoders: neither mesh nor microbatches change them."""

import functools

import jax
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.sharding import mesh as mesh_lib
from tests import small
from tests.models import encoder_decoder_test
from tests.sharding import steps

SHAPES = {"t5": small.APART["t5"], "lstm": small.LISTENING["lstm"]}
EVERY = pytest.mark.parametrize("name", SHAPES)


@functools.cache
def run(name, shape, microbatches=1, turned=False):
  """A step; the mutant: sources do not go where their rows go."""
  batch = encoder_decoder_test.batch()
  if turned:
    batch["source_BS"] = np.roll(batch["source_BS"], 1, axis=0)
  with jax.enable_x64(True):
    return steps.run(
      shape, config=SHAPES[name], batch=batch, microbatches=microbatches
    )


def apart(found, want):
  assert found.keys() == want.keys()
  return max(np.abs(found[k] - want[k]).max() for k in want)


@EVERY
def test_a_mesh_and_microbatches_give_one_devices_step(name):
  want = run(name, (1, 1, 1))
  assert apart(run(name, (2, 2, 2), microbatches=2), want) < 1e-12
  if name == "lstm":
    assert apart(run(name, (1, 1, 1), turned=True), want) > 1e-3


def test_every_weight_of_a_recurrent_one_is_cut():
  mesh = mesh_lib.make(mesh_lib.MeshShape(2, 2, 2))
  with jax.set_mesh(mesh):
    _, state, _ = steps.plan(mesh, config=SHAPES["lstm"])
  for path, x in trees.paths(state.trainable):
    assert not x.sharding.is_fully_replicated, path
