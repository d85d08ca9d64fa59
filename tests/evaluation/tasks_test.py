"""Figures of texts are scikit-learn's and scipy's."""

import json
import pathlib

import numpy as np
import pytest

from llm_jax.evaluation import class_sets, classes, numbers

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "tasks_measured.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))


def classified(true, said):
  logp_MO = np.where(np.arange(5) == np.array(said)[:, None], -0.1, -9.0)
  return classes.Classified(logp_MO, np.array(true))


def sets(true, said):
  return class_sets.Told(np.array(said, bool), np.array(true, bool))


def told(true, said):
  return numbers.Told(np.array(said), np.array(true))


KINDS = {
  "classes": (classified, classes, ("accuracy", "macro_f1", "matthews")),
  "class_sets": (sets, class_sets, ("accuracy", "macro_f1", "micro_f1")),
  "numbers": (told, numbers, ("mse", "pearson", "spearman")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_others(kind):
  of, module, names = KINDS[kind]
  gold = GOLD[kind]
  got = module.measure(of(gold["true"], gold["said"]))
  for name in names:
    assert got[name] == pytest.approx(gold[name], abs=1e-12), name
  assert got["examples"] == len(gold["true"])
  # Mutant: what is said of other texts.
  other = module.measure(of(gold["true"], gold["said"][::-1]))
  assert all(abs(other[name] - gold[name]) > 1e-3 for name in names)


def test_the_micro_mean_of_classes_is_their_accuracy():
  gold = GOLD["classes"]
  assert gold["micro_f1"] == pytest.approx(gold["accuracy"], abs=1e-12)


def test_each_class_of_a_set():
  gold = GOLD["class_sets"]
  each = class_sets.of_each(sets(gold["true"], gold["said"]), "abcd")
  precision, recall, f1, support = gold["each"]
  assert [r["class"] for r in each] == list("abcd")
  assert [r["examples"] for r in each] == support
  for name, want in (("precision", precision), ("recall", recall), ("f1", f1)):
    assert [r[name] for r in each] == pytest.approx(want)


def test_baselines():
  gold = GOLD["class_sets"]
  found = class_sets.baselines(sets(gold["true"], gold["said"]))
  most = np.mean(gold["true"], 0) > 0.5
  want = (np.array(gold["true"]) == most).all(1).mean()
  assert found["majority"]["accuracy"] == pytest.approx(want)
  assert any(most) and set(found) == {"majority"}
  y = np.array(GOLD["numbers"]["true"])
  found = numbers.baselines(told(y, y))
  assert found == {"mean": {"mse": pytest.approx(y.var())}}
  (found,) = classes.baselines(classified([0, 2, 2], [0, 0, 0])).values()
  assert found["matthews"] == 0 and found["accuracy"] == pytest.approx(2 / 3)


def test_extremes():
  perfect = classes.measure(classified([0, 1, 1], [0, 1, 1]))
  assert perfect["matthews"] == pytest.approx(1)
  turned = classes.measure(classified([0, 1, 1], [1, 0, 0]))
  assert turned["matthews"] == pytest.approx(-1)
  none = class_sets.measure(sets([[0, 0]], [[0, 0]]))
  assert none == {
    **{"accuracy": 1.0, "micro_f1": 0.0, "macro_f1": 0.0},
    "examples": 1.0,
  }
  flat = numbers.measure(told([1.0, 2.0], [3.0, 3.0]))
  assert flat == {"mse": 2.5, "examples": 2.0}
