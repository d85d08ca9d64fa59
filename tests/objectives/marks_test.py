"""Losses of words and of spans are those of transformers' heads."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives.spans import Spans
from llm_jax.objectives.tagging import Tagging
from llm_jax.sharding import mesh as mesh_lib
from tests.objectives import table

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "marks.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))["losses"]
WORDS, SPANS = GOLD["tagging"], GOLD["spans"]
OBJECTIVES = {"tags": Tagging(), "spans": Spans()}


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def said(logits, batch, *, key=None):
  """A model that is nothing but what its output head says of each row."""
  zero_BT = 0.0 * batch["mask_BT"]
  return Scores(zero_BT, zero_BT, output_BTO=logits[batch["row_B"]])


def batch(kind):
  """Of four rows, and their logits."""
  its = WORDS if kind == "tags" else SPANS
  out = {"mask_BT": np.array(its["mask"], bool), "row_B": np.arange(4)}
  if kind == "tags":
    out["tag_BT"] = np.array(its["tag"], np.int32)
  else:
    out["start_B"] = np.array(its["start"], np.int32)
    out["end_B"] = np.array(its["end"], np.int32)
  return out, np.array(its["logits"])


def run(kind, objective=None, change=None, cuts=1):
  b, logits = batch(kind)
  if change is not None:
    b, logits = change(b, logits)
  roles = {"policy": jnp.asarray(logits)}
  objective = objective or OBJECTIVES[kind]
  return table.step(objective, roles, b, cuts, score=said)


def equal(got, want):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def agrees(found, gold):
  loss, gradient, _ = found
  np.testing.assert_allclose(loss, gold["loss"], rtol=1e-12)
  np.testing.assert_allclose(
    gradient, np.array(gold["gradient"]), rtol=1e-10, atol=1e-14
  )


def test_words_are_transformers():
  found = run("tags")
  agrees(found, WORDS)
  mask, tag = np.array(WORDS["mask"]), np.array(WORDS["tag"])
  right = np.array(WORDS["logits"]).argmax(-1) == tag
  assert found[2]["accuracy"] == pytest.approx(right[mask].mean())
  assert found[2]["tokens"] == mask.sum()


def everywhere(b, logits):
  return b | {"mask_BT": np.ones_like(b["mask_BT"])}, logits


def test_spans_are_transformers():
  """Over all of the row, and where only some positions may be told."""
  agrees(run("spans", change=everywhere), SPANS["everywhere"])
  found = run("spans")
  agrees(found, SPANS["allowed"])
  assert set(found[2]) == {
    *("accuracy", "start_accuracy", "end_accuracy", "tokens")
  }
  # Mutant: positions that may not be told take part.
  assert abs(SPANS["allowed"]["loss"] - SPANS["everywhere"]["loss"]) > 1e-2


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_microbatches_add(kind):
  equal(run(kind, cuts=2), run(kind))

  def half(i):
    def take(b, logits):
      return {n: x[i::2] for n, x in b.items()}, logits

    return take

  # Mutant: the mean of the parts' means.
  means = [run(kind, change=half(i))[0] for i in range(2)]
  uneven = kind == "tags"  # rows weigh alike, words do not stand in all alike
  assert (abs(np.mean(means) - run(kind)[0]) > 1e-3) == uneven


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_padding_does_not_matter(kind):
  """Neither positions behind a row, nor rows in which nothing counts."""

  def more(b, logits):
    logits = np.pad(logits, ((0, 2), (0, 3), (0, 0)), constant_values=5.0)
    b = {
      n: np.pad(x, ((0, 2), (0, 3)) if x.ndim == 2 else ((0, 2),))
      for n, x in b.items()
    }
    return b | {"row_B": np.arange(6)}, logits

  loss, gradient, metrics = run(kind)
  padded = run(kind, change=more)
  np.testing.assert_allclose(padded[0], loss, rtol=1e-12)
  np.testing.assert_allclose(padded[1][:4, :6], gradient, rtol=1e-12)
  assert not padded[1][4:].any() and not padded[1][:, 6:].any()
  assert padded[2] == pytest.approx(metrics)
  nothing = lambda b, x: (b | {"mask_BT": 0 * b["mask_BT"] > 0}, x)
  loss, gradient, _ = run(kind, change=nothing)
  assert loss == 0 and not gradient.any()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_eight_devices_are_one(kind):
  twice = lambda b, x: ({n: np.concatenate([y, y]) for n, y in b.items()}, x)
  one = run(kind, change=twice)
  mesh = mesh_lib.make(mesh_lib.MeshShape(data=8))
  with jax.set_mesh(mesh):
    eight = run(
      kind, change=lambda b, x: (mesh_lib.place(twice(b, x)[0], mesh), x)
    )
  equal(eight, one)


def test_mutants_of_spans_are_caught():
  swap = {"start_B": "end_B", "end_B": "start_B"}
  swapped = lambda b, x: ({swap.get(n, n): y for n, y in b.items()}, x)
  with pytest.raises(AssertionError):
    agrees(run("spans", change=swapped), SPANS["allowed"])

  class Summed(Spans):
    """Start and end are added, and not their mean taken."""

    def weigh(self, batch):
      out = super().weigh(batch)
      return out | {"weight_B": 2 * out["weight_B"]}

  with pytest.raises(AssertionError):
    agrees(run("spans", Summed()), SPANS["allowed"])


def test_mutant_every_piece_of_a_word_is_caught():
  """What stands in `tag_BT` outside of the mask is read by nobody."""
  with pytest.raises(AssertionError):
    agrees(run("tags", change=everywhere), WORDS)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_extremes_and_no_head(kind):
  with jax.enable_x64(False):
    for x in (1e4, 0.0, 1e30):
      wild = lambda b, z, x=x: (b, (x * z).astype(np.float32))
      loss, gradient, metrics = run(kind, change=wild)
      assert np.isfinite([loss, *metrics.values()]).all()
      assert np.isfinite(gradient).all()

  def headless(*given, key=None):
    return said(*given)._replace(output_BTO=None)

  b, logits = batch(kind)
  with pytest.raises(ValueError, match="--model.outputs=0: must be"):
    table.step(
      OBJECTIVES[kind],
      {"policy": jnp.asarray(logits)},
      b,
      score=headless,
      jit=False,
    )
