"""Settings that do not fit each other are told before anything is made."""

import dataclasses

import pytest

from llm_jax import checks, datasets
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.data.sides import SourceSide
from llm_jax.experiment import Evaluation
from llm_jax.objectives.classification import Classification
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.ranking import Ranking
from tests import command

NAMES = ("bad", "fair", "good")


def classes(*names, rows="classes"):
  return Preferences(
    sources=(PreferenceFiles(classes=names),), rows=rows, length=16
  )


def settings(data=classes(*NAMES), outputs=3, **of_objective):
  return dataclasses.replace(
    command.EXPERIMENT,
    model=dataclasses.replace(command.EXPERIMENT.model, outputs=outputs),
    data=data,
    objective=Classification(**of_objective),
  )


def test_a_classifier_has_as_many_classes_as_its_data():
  checks.settings(settings())
  checks.settings(settings(positive=2, weights=(1.0, 2.0, 3.0)))
  checks.settings(settings(Preferences(rows="classes", length=16), 2))


@pytest.mark.parametrize(
  "experiment,want",
  [
    (settings(outputs=0), "--model.outputs=0: there are 3 classes (bad, fair,"),
    (settings(outputs=2), "--model.outputs=2: there are 3 classes (bad, fair,"),
    (
      settings(positive=3),
      "--objective.positive=3: there are 3 classes (bad, fair, good), numbered"
      " from 0",
    ),
    (
      settings(weights=(1.0, 2.0)),
      "--objective.weights=1.0,2.0: there are 3 classes",
    ),
    (
      settings(classes(rows="pairs"), 2),
      "--data.rows=pairs: Classification reads classes, not pairs",
    ),
    (
      dataclasses.replace(settings(), objective=Ranking()),
      "Ranking reads pairs or rankings, not classes",
    ),
    (
      dataclasses.replace(settings(), objective=KTO()),
      "KTO reads labels, not classes",
    ),
    (command.EXPERIMENT, None),
  ],
)
def test_what_does_not_fit_is_told(experiment, want):
  if want is None:
    checks.settings(experiment)
    return
  with pytest.raises(ValueError) as e:
    checks.settings(experiment)
  assert want in str(e.value)


def test_sources_that_nobody_reads_are_refused_of_other_data_too():
  apart = Preferences(length=16, source=SourceSide(length=16))
  for changes, flag in (
    ({"data": apart, "objective": DPO()}, "data"),
    ({"evaluations": (Evaluation("o", apart),)}, "evaluations.0.data"),
  ):
    with pytest.raises(ValueError) as e:
      checks.settings(dataclasses.replace(command.EXPERIMENT, **changes))
    assert str(e.value).startswith(
      f"--{flag}.source.length=16: the model is a decoder alone"
    )


def test_other_data_have_the_same_classes():
  dataset = lambda data: datasets.Dataset(Evaluation("o", data), [], 0, [])
  datasets.check_classes(settings(), [dataset(classes(*NAMES))], NAMES)
  others = [dataset(classes("no", "yes"))]
  with pytest.raises(ValueError) as e:
    datasets.check_classes(settings(), others, NAMES)
  assert str(e.value) == (
    "o: has the classes no, yes, and the run tells bad, fair, good apart"
  )
  datasets.check_classes(command.EXPERIMENT, others, ())
