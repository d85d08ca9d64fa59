"""Figures of a classifier are scikit-learn's, and its confidence is honest."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.evaluation import classes
from llm_jax.evaluation.classes import Classified

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "classes.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))
NAMES = ("a", "b", "c", "d", "e")


def of(true, said, sure=0.9):
  """Classified so, as surely as that; the others alike."""
  logp_MO = np.full((len(true), len(NAMES)), np.log((1 - sure) / 4))
  logp_MO[np.arange(len(said)), said] = np.log(sure)
  return Classified(logp_MO, np.array(true))


def test_figures_are_scikit_learns():
  found = of(GOLD["true"], GOLD["said"])
  got = classes.measure(found)
  for name in ("accuracy", "macro_f1"):
    assert got[name] == pytest.approx(GOLD[name], abs=1e-12)
  assert got["examples"] == 40
  precision, recall, f1, support = GOLD["each"]
  each = classes.of_each(found, NAMES)
  assert [r["class"] for r in each] == list(NAMES)
  assert [r["examples"] for r in each] == support
  assert [r["recall"] for r in each] == pytest.approx(recall)
  assert [r["f1"] for r in each] == pytest.approx(f1)
  assert [r["precision"] for r in each] == pytest.approx(precision)
  # Mutants: true and said the other way round; a mean over all five classes.
  turned = classes.of_each(of(GOLD["said"], GOLD["true"]), NAMES)
  assert [r["recall"] for r in turned] != pytest.approx(recall)
  assert np.mean([x or 0 for x in f1]) < got["macro_f1"] - 0.01


def test_the_majority_is_the_class_that_there_is_most_of():
  found = of([0, 2, 2, 2, 1], [0, 0, 0, 0, 0])
  assert classes.baselines(found) == {
    "majority": {
      "accuracy": 0.6,
      "macro_f1": pytest.approx(0.75 / 3),
      "matthews": 0.0,
    }
  }


def test_confidence_is_the_likeliest_classs():
  """Three of four right, said to be with 0.9: by 0.15 too sure."""
  found = of([0, 1, 2, 3], [0, 1, 2, 0])
  assert classes.measure(found)["ece"] == pytest.approx(0.15)
  (bin_,) = classes.confidence(found).curve()
  assert bin_ == pytest.approx(
    {"share": 1, "confidence": 0.9, "accuracy": 0.75}
  )
  # Chance is the least that a likeliest class can be.
  flat = of([0, 1], [0, 1], sure=0.2)
  assert classes.confidence(flat).sure_N == pytest.approx([0.2])


def test_who_knows_the_chances_is_calibrated():
  r = np.random.default_rng(0)
  logits = 2 * r.normal(size=(20_000, 3))
  logp = lambda z: z - np.logaddexp.reduce(z, axis=1, keepdims=True)
  drawn = (logits + r.gumbel(size=logits.shape)).argmax(1)
  ece = lambda scale: classes.measure(Classified(logp(scale * logits), drawn))
  assert ece(1)["ece"] < 0.015 < 0.08 < min(ece(3)["ece"], ece(0.4)["ece"])


def test_rows_without_a_completion_do_not_count():
  batch = {
    "mask_BT": jnp.array([[1, 1], [0, 0], [1, 0]], bool),
    "class_B": jnp.array([1, 0, 2]),
  }
  logp_BO = jnp.log(jnp.array([[0.1, 0.8, 0.1], [1.0, 0, 0], [0.2, 0.3, 0.5]]))
  found = classes.gather([classes.rows(logp_BO, batch)] * 2)
  assert found.class_M.tolist() == [1, 2, 1, 2]
  assert classes.measure(found)["accuracy"] == 1
  none = {**batch, "mask_BT": jnp.zeros((3, 2), bool)}
  with pytest.raises(ValueError, match="there is no completion"):
    classes.gather([classes.rows(logp_BO, none)])
