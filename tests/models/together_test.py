"""Rows scored several in one say what they say alone, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import axes, fitting
from llm_jax.contracts import Scores
from llm_jax.models import together
from llm_jax.peft.prompts import Prefix, Prompt
from llm_jax.peft.sites import Base
from llm_jax.sharding import mesh as mesh_lib
from tests import small

B, T = 8, 12
SIZES = (3, 12, 5, 2, 4, 6, 1, 3)  # of rows, aligned on the right
SHAPES = {**small.SHAPES, **small.RECURRENT}


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def rows(seed=0):
  r = np.random.default_rng(seed)
  size_B1 = np.array(SIZES)[:, None]
  at_BT = np.arange(T) - (T - size_B1)
  real_BT = at_BT >= 0
  return {
    "tokens_BT": r.integers(0, small.DIMS.V, (B, T)).astype(np.int32),
    "target_BT": r.integers(0, small.DIMS.V, (B, T)).astype(np.int32),
    "position_BT": np.maximum(at_BT, 0).astype(np.int32),
    "segment_BT": real_BT.astype(np.int32),
    "asked_BT": real_BT & (at_BT > 0),
  }


def placed(batch, cuts=fitting.Cuts()):
  place_BT = fitting.placed(batch, 8, cuts, T)
  assert len(place_BT) < B
  return {**batch, "place_BT": place_BT}


def furniture(shape, method=None):
  """(score, variables) of a decoder with an output head."""
  layers = 1 + max(getattr(shape, "full_layers", ()), default=0)
  shape = dataclasses.replace(shape, outputs=1, num_layers=layers)
  model, variables = small.build(shape)
  if method is not None:
    boxed = jax.eval_shape(
      model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
    )["params"]
    base = Base(
      variables["params"], axes.suffixes(boxed), jax.random.key(1), len
    )
    adapters = axes.unbox(method.add(base))
    r = np.random.default_rng(2)
    draw = lambda x: jnp.asarray(r.normal(size=x.shape))
    variables = {**variables, "adapters": jax.tree.map(draw, adapters)}

  def score(variables, batch, **how):
    return model.apply(variables, batch, entropy=True, method="score", **how)

  return score, variables


def said(score, variables, batch):
  """What counts of the scores, and a gradient that all of it has."""
  r = np.random.default_rng(3)
  asked_BT, real_BT = batch["asked_BT"], batch["segment_BT"] > 0
  weight_BT = jnp.asarray(r.normal(size=(B, T)))

  def total(variables):
    found = score(variables, batch)
    scores = {
      "logp": jnp.where(asked_BT, found.logp_BT, 0),
      "entropy": jnp.where(asked_BT, found.entropy_BT, 0),
      "output": jnp.where(real_BT, found.output_BTO[..., 0], 0),
    }
    return sum((weight_BT * x).sum() for x in scores.values()), scores

  grads, scores = jax.jit(jax.grad(total, has_aux=True))(variables)
  return jax.tree.leaves((scores, grads))


def apart(a, b):
  return max(
    float(np.abs(np.asarray(x) - np.asarray(y)).max())
    for x, y in zip(a, b, strict=True)
  )


@pytest.mark.parametrize("name", [*SHAPES, "prompt", "prefix"])
def test_each_row_is_as_alone(name):
  methods = {"prompt": Prompt(tokens=3, init="random"), "prefix": Prefix()}
  its = furniture(SHAPES.get(name, small.CONFIG), methods.get(name))
  want = said(*its, rows())
  found = said(together.packing(its[0]), its[1], placed(rows()))
  assert apart(found, want) < 1e-11
  assert max(np.abs(x).max() for x in map(np.asarray, want)) > 0.1


def test_mutants_are_caught():
  """A neighbour is looked at; positions go on; another's scores are given."""
  score, variables = furniture(SHAPES["gpt2"])
  want = said(score, variables, rows())

  def neighbour(variables, batch, **how):
    one = jnp.minimum(batch["segment_BT"], 1)
    return score(variables, {**batch, "segment_BT": one}, **how)

  def going_on(variables, batch, **how):
    at = jnp.broadcast_to(
      jnp.arange(batch["tokens_BT"].shape[1]), batch["tokens_BT"].shape
    )
    return score(variables, {**batch, "position_BT": at}, **how)

  def turned(variables, batch, **how):
    found = score(variables, batch, **how)
    return jax.tree.map(lambda x: x[::-1], found)

  for mutant in (neighbour, going_on, turned):
    found = said(together.packing(mutant), variables, placed(rows()))
    assert apart(found, want) > 1e-3


def test_no_row_leaves_its_device():
  """Packed in parts, by the part; and nothing moves but sums of gradients."""
  score, variables = furniture(small.CONFIG)
  want = said(score, variables, rows())
  mesh = mesh_lib.make(mesh_lib.MeshShape(1, 2, 1))
  with jax.set_mesh(mesh):
    batch = placed(rows(), fitting.Cuts.of(mesh))
    batch = mesh_lib.place_whole(batch, mesh)
    found = said(together.packing(score), variables, batch)
    assert apart(found, want) < 1e-11
    same = lambda _, b: Scores(b["tokens_BT"], b["target_BT"])
    of = lambda rows: together.packing(same)(None, rows)
    text = jax.jit(of).lower(batch).compile().as_text()
  moves = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
  assert not any(m in text for m in moves)
