"""Losses of sets of classes and of numbers are those of transformers."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import Scores
from llm_jax.objectives import multi_label, regression
from llm_jax.objectives.multi_label import MultiLabel
from llm_jax.objectives.regression import Regression
from llm_jax.sharding import mesh as mesh_lib
from tests.objectives import table

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "tasks.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))
LOGITS, SAID = np.array(GOLD["logits"]), np.array(GOLD["said"])
SETS, NUMBER = np.array(GOLD["sets"], bool), np.array(GOLD["number"])
WEIGHTS = tuple(GOLD["weights"])
CASES = {
  "sets": (MultiLabel(), LOGITS, {"classes_BO": SETS}),
  "weights": (MultiLabel(weights=WEIGHTS), LOGITS, {"classes_BO": SETS}),
  "number": (Regression(), SAID, {"number_B": NUMBER}),
}
T, LENGTHS = 6, [2, 3, 1, 6, 3, 2, 1, 4]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def batch(told, first=False, there=True):
  """Texts of LENGTHS tokens, read at the first or the last of them."""
  place_T = np.arange(T)
  length_B1 = np.array(LENGTHS)[:, None]
  at_B1 = np.zeros_like(length_B1) if first else length_B1 - 1
  there_B1 = np.broadcast_to(there, len(LENGTHS))[:, None]
  return {
    "segment_BT": (place_T < length_B1).astype(np.int32),
    "mask_BT": (place_T == at_B1) & there_B1,
    "row_B": np.arange(len(LENGTHS)),
    **told,
  }


def said(output_BO, batch, *, key=None):
  """Outputs stand where the mask is; elsewhere there is something else."""
  here_BT1 = batch["mask_BT"][..., None]
  noise_TO = 9.0 + jnp.arange(T * output_BO.shape[1]).reshape(T, -1) % 7
  here_B1O = output_BO[batch["row_B"]][:, None]
  logp_BT = 0.0 * batch["mask_BT"]
  output_BTO = jnp.where(here_BT1, here_B1O, noise_TO)
  return Scores(logp_BT, logp_BT, output_BTO=output_BTO)


def run(objective, outputs, b, cuts=1):
  roles = {"policy": jnp.asarray(outputs)}
  return table.step(objective, roles, b, cuts, score=said)


def alike(got, want):
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_transformers(name, first):
  objective, outputs, told = CASES[name]
  loss, gradient, metrics = run(objective, outputs, batch(told, first))
  np.testing.assert_allclose(loss, GOLD["loss"][name], rtol=1e-12)
  want = np.array(GOLD["gradient"][name])
  np.testing.assert_allclose(gradient, want, rtol=1e-10, atol=1e-14)
  others = [x for n, x in GOLD["loss"].items() if n != name]
  assert min(abs(loss - x) for x in others) > 1e-3
  assert metrics["tokens"] == sum(LENGTHS)
  if name == "number":
    error = np.abs(SAID[:, 0] - NUMBER).mean()
    assert metrics["error"] == pytest.approx(error)
  else:
    assert metrics["accuracy"] == ((LOGITS > 0) == SETS).all(1).mean()


@pytest.mark.parametrize("name", CASES)
def test_microbatches_add_and_rows_without_a_text_count_nothing(name):
  objective, outputs, told = CASES[name]
  there = np.arange(8) != 5
  b = batch(told, there=there)
  one = run(objective, outputs, b)
  alike(run(objective, outputs, b, cuts=2), one)
  # The same as if the row were not there at all.
  fewer = {k: np.delete(x, 5, 0) for k, x in b.items() if k != "row_B"}
  fewer["row_B"] = np.delete(b["row_B"], 5)
  alike(run(objective, outputs, fewer), one)
  assert not np.asarray(one[1])[5].any()
  # Mutants: the mean of the parts' means, and every row counted.
  parts = [{k: x[i::2] for k, x in b.items()} for i in range(2)]
  means = [run(objective, outputs, part)[0] for part in parts]
  assert abs(np.mean(means) - one[0]) > 1e-3
  assert abs(run(objective, outputs, batch(told))[0] - one[0]) > 1e-3
  none = run(objective, outputs, batch(told, there=False))
  assert none[0] == 0 and not np.asarray(none[1]).any()


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_are_one(name):
  objective, outputs, told = CASES[name]
  one = run(objective, outputs, batch(told))
  mesh = mesh_lib.make(mesh_lib.MeshShape(data=8))
  with jax.set_mesh(mesh):
    cut = mesh_lib.place(batch(told), mesh)
    alike(run(objective, outputs, cut), one)


@pytest.mark.parametrize("name", CASES)
def test_mutant_the_last_position_of_the_row_is_caught(name, monkeypatch):
  for module in (multi_label, regression):
    monkeypatch.setattr(
      module, "output", lambda scores, batch: scores.output_BTO[:, -1]
    )
  with pytest.raises(AssertionError):
    test_loss_and_gradient_are_those_of_transformers(name, False)


def test_extremes_and_what_cannot_be():
  for scale in (0.0, 1e4, -1e30):
    with jax.enable_x64(False):
      b = batch({"classes_BO": SETS})
      loss, gradient, _ = run(
        CASES["weights"][0], (scale * LOGITS).astype(np.float32), b
      )
    assert np.isfinite(loss) and np.isfinite(gradient).all()
  with pytest.raises(ValueError, match="--objective.weights=1.0,-1.0: must be"):
    MultiLabel(weights=(1.0, -1.0))
