"""Preferences of encoder-decoders from the command line: trained and measured.

That runs go on as they were, and are the same on eight devices, is in
`families_matrix_test`.
"""

import dataclasses
import json
import math
from unittest import mock

import pytest

from llm_jax import precomputing
from llm_jax.data.sides import SourceSide
from llm_jax.experiment import Validation
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.ranking import Ranking
from llm_jax.sharding.mesh import MeshShape
from tests import command, precomputing_test

MODEL = RecurrentEncoderDecoderConfig(num_layers=1, embed_dim=8, max_length=32)


def experiment(home):
  its = precomputing_test.experiment(
    home,
    DPO(beta=0.5),
    model=MODEL,
    mesh=MeshShape(data=4, tensor=2),
    validation=Validation(every=3, batches=1, questions=8),
  )
  apart = {"source": SourceSide(24), "length": 16}
  return dataclasses.replace(its, data=dataclasses.replace(its.data, **apart))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("pairs_apart")


@pytest.fixture(scope="module")
def run(home):
  """Rows of metrics of a run in home/each."""
  return precomputing_test.train(home, experiment(home), "each")


def apart(found, wanted):
  """The largest difference of losses and margins, two programs' figures."""
  return max(
    abs(a[name] - b[name])
    for a, b in zip(found, wanted, strict=True)
    for name in ("loss", "margin")
  )


def test_a_reference_asked_once_is_one_asked_at_each_step(home, run):
  made = experiment(home)
  once = lambda name: precomputing_test.train(
    home, made, name, "--reference=once"
  )
  assert apart(once("once"), run) < 1e-5
  rolled = precomputing_test.rolled(precomputing._ask)
  with mock.patch.object(precomputing, "_ask", rolled):  # of other rows
    assert apart(once("mutant"), run) > 1e-2
  assert math.isclose(run[0]["loss"], math.log(2), rel_tol=1e-6)


def test_it_is_measured_and_judges(home, run):
  """KL of answers that it draws; rewards of them by the run itself."""
  said = command.call(
    *("evaluate", f"--workdir={home / 'each'}", "--validation.best_of=2"),
    *(f"--judge={home / 'each'}", "--samples.max_new_tokens=4"),
    experiment=experiment(home),
  )
  assert said.code == 0, said.err
  found = json.loads((home / "each/evaluation.json").read_text())
  measures = found["results"]["model"]
  assert {"accuracy", "margin", "kl", "score"} <= set(measures)
  assert measures["completions"] == 8
  assert math.isfinite(measures["kl"]) and measures["score"] != 0


def test_a_reward_model_is_measured_and_not_written_as_what_it_is_not(home):
  """The heads of transformers read one text in both stacks."""
  its = experiment(home)
  its = dataclasses.replace(
    its,
    model=EncoderDecoderConfig(
      num_layers=1,
      embed_dim=8,
      mlp_dim=8,
      num_heads=2,
      max_length=32,
      outputs=1,
    ),
    objective=Ranking(),
    data=dataclasses.replace(its.data, rows="rankings", completions=2),
    steps=1,
    validation=Validation(every=1, batches=1, questions=0),
  )
  run = f"--workdir={home / 'rewards'}"
  for verb in ("train", "evaluate"):
    said = command.call(verb, run, experiment=its)
    assert said.code == 0, said.err
  found = json.loads((home / "rewards/evaluation.json").read_text())
  assert 0 < found["results"]["model"]["accuracy"] < 1
  said = command.call("export", run, f"--to={home / 'out'}", experiment=its)
  assert said.code == 2
  assert said.error.startswith("error: export: a prompt is read by the encoder")


def test_what_cannot_be(home):
  for flags, wanted in (
    (["--data.source.length=0"], "=0: an encoder-decoder reads a source"),
    (["--data.packing=best_fit"], "--data.packing=best_fit: completions whose"),
    (["--data.source.start=eos"], "--data.source.start=eos: is the id"),
  ):
    said = command.refused(
      *(home, "train", f"--workdir={home / 'run'}", *flags),
      experiment=dataclasses.replace(
        experiment(home), model=dataclasses.replace(MODEL, start_id=0)
      ),
    )
    assert wanted in said
