"""Runs of a mixture of experts: trained, tuned, asked; and refused."""

import dataclasses

import pytest

from llm_jax.experiment import Samples, Validation
from llm_jax.models.config import Experts
from llm_jax.peft.lora import LoRA
from llm_jax.sharding.mesh import MeshShape
from tests import command

EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  model=dataclasses.replace(
    command.EXPERIMENT.model, experts=Experts(num=4, z_loss=1e-3)
  ),
  mesh=MeshShape(data=1, expert=4),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("experts")


def train(home, name, *more, experiment=EXPERIMENT):
  return command.train_in(home, name, *more, experiment=experiment)


@pytest.fixture(scope="module")
def whole(home):
  return train(home, "whole")


def test_what_routing_does_is_written_down(whole):
  trained = [r for r in whole["rows"] if r["split"] == "train"]
  assert len(trained) == 2
  for row in trained:
    assert 0.99 < row["balance"] < 4
    assert 0.5 <= row["busiest_expert"] <= 1  # of 2 choices among 4
    assert 0 < row["router_entropy"] < 1.387 and row["router_z"] >= 0


def test_it_is_a_base_to_tune_in_four_bits_and_to_ask(home, whole):
  tuned = dataclasses.replace(
    EXPERIMENT,
    init_from=str(home / "whole"),
    peft=LoRA(rank=2),
    frozen="nf4",
    mesh=MeshShape(data=2, expert=2),
    validation=Validation(every=0),
    samples=Samples(every=0),
  )
  found = train(home, "tuned", experiment=tuned)
  assert "balance" in found["rows"][0]
  said = command.call(
    *("generate", f"--workdir={home / 'tuned'}", "--prompt=line"),
    "--samples.max_new_tokens=3",
    experiment=tuned,
  )
  assert said.code == 0 and said.out.startswith("line"), said.err
  other = dataclasses.replace(EXPERIMENT.model.experts, normalise=False)
  shape = dataclasses.replace(EXPERIMENT.model, experts=other)
  wrong = dataclasses.replace(tuned, model=shape)
  said = command.call(
    "train", *command.flags_in(home, "wrong"), experiment=wrong
  )
  assert said.code == 2
  assert "--model.experts.normalise=False: the weights of" in said.error


@pytest.mark.parametrize(
  ("flag", "experts", "says"),
  [
    ("--mesh.expert=8", 4, "must divide --model.experts.num=4: 1, 2, 4"),
    ("--mesh.expert=2", 0, "the model has no experts; --mesh.data=2 shares"),
  ],
)
def test_a_mesh_that_experts_cannot_share_is_refused(flag, experts, says):
  shape = dataclasses.replace(EXPERIMENT.model, experts=Experts(num=experts))
  for verb in ("plan", "train"):
    e = dataclasses.replace(EXPERIMENT, model=shape)
    said = command.call(verb, flag, experiment=e)
    assert said.code == 2 and says in said.error
