"""Runs of recurrent models: trained, tuned, asked; and refused."""

import dataclasses

import pytest

from benchmarks import sameness
from llm_jax.experiment import Samples, Validation
from llm_jax.models.recurrent_config import RecurrentConfig
from llm_jax.peft.lora import LoRA
from llm_jax.sharding.mesh import MeshShape
from tests import command, drawing

EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  model=RecurrentConfig(embed_dim=8, max_length=32, dropout=0.1),
  data=dataclasses.replace(command.EXPERIMENT.data, packing="best_fit"),
  mesh=MeshShape(data=2, fsdp=4),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("recurrent")


def train(home, name, *more, experiment=EXPERIMENT):
  return command.train_in(home, name, *more, experiment=experiment)


@pytest.fixture(scope="module")
def whole(home):
  return train(home, "whole")


def test_it_is_measured_and_is_a_base_to_tune_and_to_ask(home, whole):
  said = command.call(
    "evaluate", f"--workdir={home / 'whole'}", experiment=EXPERIMENT
  )
  assert said.code == 0 and "bits" in said.out, said.err
  tuned = dataclasses.replace(
    EXPERIMENT,
    init_from=str(home / "whole"),
    peft=LoRA(rank=2),
    frozen="int8",
    validation=Validation(every=0),
    samples=Samples(every=0),
  )
  train(home, "tuned", experiment=tuned)
  said = command.call(
    *("generate", f"--workdir={home / 'tuned'}", "--prompt=line"),
    *("--adapter=none", f"--adapter={home / 'tuned'}"),
    "--samples.max_new_tokens=3",
    experiment=tuned,
  )
  assert said.code == 0 and said.out.count("line") == 2, said.err


def test_weights_of_another_kind_are_refused(home, whole):
  for model, says in (
    (
      command.EXPERIMENT.model,
      "the weights of a recurrent model, and --model is a transformer one",
    ),
    (
      dataclasses.replace(EXPERIMENT.model, residual=True),
      "--model.residual=True: the weights of --init_from=",
    ),
  ):
    other = dataclasses.replace(
      EXPERIMENT, model=model, init_from=str(home / "whole")
    )
    said = command.call(
      "train", *command.flags_in(home, "other"), experiment=other
    )
    assert said.code == 2 and says in said.error


def test_it_learns_from_what_it_draws(home):
  experiment = drawing.experiment(home, steps=2)
  its = dataclasses.replace(EXPERIMENT.model, outputs=1, dropout=0.0)
  its = dataclasses.replace(
    its, max_length=experiment.model.max_length, cell="gru"
  )
  experiment = dataclasses.replace(experiment, model=its)
  said = command.call(
    "train", f"--workdir={home / 'ppo'}", experiment=experiment
  )
  assert said.code == 0, said.err
  rows = sameness.content(home / "ppo")["rows"]
  assert all("score" in r for r in rows if r["split"] == "train")
  # The first minibatch is scored as it was drawn.
  assert abs(rows[0]["kl_old"]) < 1e-6


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_it_is_planned(cell):
  said = command.call("plan", f"--model.cell={cell}", experiment=EXPERIMENT)
  assert said.code == 0 and "parameters" in said.out, said.err
  said = command.call(
    *("plan", f"--model.cell={cell}", "--topology=v5e-8", "--nocompile"),
    *("--search", "--model.embed_dim=64"),
    experiment=EXPERIMENT,
  )
  assert said.code == 0 and "paste: " in said.out, said.err
