"""Instruction tuning of encoder-decoders: trained, resumed, asked; refused."""

import dataclasses
import functools
import json

import pytest

from benchmarks import sameness
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.sides import SourceSide
from llm_jax.experiment import Samples, Validation
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.recurrent_encoder_decoder_config import (
  RecurrentEncoderDecoderConfig,
)
from llm_jax.objectives.dpo import DPO
from llm_jax.peft.lora import LoRA
from llm_jax.peft.prompts import Prompt
from llm_jax.sharding.mesh import MeshShape
from tests import command

MODELS = {
  "t5": EncoderDecoderConfig(
    num_layers=1,
    embed_dim=8,
    mlp_dim=16,
    num_heads=2,
    max_length=64,
    positions="relative",
    dropout=0.1,
  ),
  "lstm": RecurrentEncoderDecoderConfig(
    num_layers=1, embed_dim=8, max_length=64, dropout=0.1
  ),
}
EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  data=Instructions(
    sources=(Conversations(),),
    length=16,
    source=SourceSide(length=24),
    validation=0.2,
  ),
  samples=Samples(every=0),
  validation=Validation(every=2, batches=1, questions=8, baselines=False),
  mesh=MeshShape(data=2, fsdp=2, tensor=2),
  steps=4,
)
EVERY = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("apart")


def of(home, name, **change):
  sources = (command.answers(home),)
  data = dataclasses.replace(
    EXPERIMENT.data, sources=sources, cache=str(home / "cache")
  )
  its = {"model": MODELS[name], "data": data}
  return dataclasses.replace(EXPERIMENT, **its | change)


@functools.cache
def trained(home, where, name, *flags, **change):
  """What a run leaves that came to its end."""
  said = command.call(
    *("train", f"--workdir={home / where}", *flags),
    experiment=of(home, name, **change),
  )
  assert said.code == 0, said.err
  return sameness.content(home / where)


def test_a_run_that_stopped_ends_as_one_that_did_not(home):
  """T5 does, too: `families_matrix_test`."""
  whole = trained(home, "lstm", "lstm")
  trained(home, "stopped", "lstm", "--steps=2")
  found = trained(home, "stopped", "lstm")
  assert sameness.differences(whole, found) == []
  # Answers and what ends them, not what is read: 8 rows of several.
  tokens = [r["tokens"] for r in whole["rows"] if r["split"] == "train"]
  assert len(tokens) == 4 and all(8 <= n <= 8 * 16 for n in tokens)


@EVERY
def test_it_is_measured_and_asked(home, name):
  trained(home, name, name)
  run, experiment = f"--workdir={home / name}", of(home, name)
  said = command.call("evaluate", run, experiment=experiment)
  assert said.code == 0, said.err
  path = home / name / "evaluation.json"
  measures = json.loads(path.read_text())["results"]["model"]
  assert measures["questions"] == 8
  assert {"bits_per_byte", "exact_match"} <= set(measures)
  said = command.call(
    *("generate", run, "--prompt=say one two", "--samples.max_new_tokens=3"),
    experiment=experiment,
  )
  assert said.code == 0 and "say one two" in said.out, said.err


def test_adapters_are_trained_and_asked_beside_the_base(home):
  """Of a recurrent one; a transformer's are in `encoder_decoder_runs_test`."""
  name, tuned = "lstm", home / "tuned"
  trained(home, name, name)
  its = {"peft": LoRA(rank=2), "frozen": "int8", "steps": 2}
  its["init_from"] = str(home / name)
  trained(home, tuned.name, name, **its)
  said = command.call(
    *("generate", f"--workdir={tuned}", "--prompt=say one two"),
    *("--adapter=none", f"--adapter={tuned}", "--samples.max_new_tokens=3"),
    experiment=of(home, name, **its),
  )
  assert said.code == 0 and said.out.count("say one two") == 2, said.err


def test_it_is_planned(home):
  said = command.call(
    *("plan", "--topology=v5e-8", "--nocompile", "--search"),
    experiment=of(home, "lstm"),
  )
  assert said.code == 0 and "paste: " in said.out, said.err


ODD = {"model": dataclasses.replace(MODELS["lstm"], embed_dim=12)}
SOURCE = "--data.source.length"
REFUSED = [
  ([f"{SOURCE}=0"], {}, f"{SOURCE}=0: an encoder-decoder reads a source"),
  ([f"{SOURCE}=65"], {}, f"{SOURCE}=65: longer than --model.max_length=64"),
  ([f"{SOURCE}=9"], {}, "raise them, or set --data.too_long=cut or drop"),
  (["--mesh.context=2", "--mesh.data=1"], {}, "--mesh.context=2: recurrent "),
  (["--mesh.stage=2", "--mesh.data=1"], {}, "--mesh.stage=2: recurrent "),
  ([], {"peft": Prompt()}, "--peft (Prompt): virtual tokens are not for"),
  (
    ["--mesh.tensor=8", "--mesh.data=1", "--mesh.fsdp=1"],
    ODD,
    "=8: divides no",
  ),
  (["--model.embed_dim=9"], {}, "--model.embed_dim=9: odd, and each of"),
  ([], {"objective": DPO()}, "--data (Instructions): DPO reads pairs"),
]


@pytest.mark.parametrize("flags,change,said", REFUSED)
def test_what_cannot_be(tmp_path, flags, change, said):
  found = command.refused(
    *(tmp_path, "train", f"--workdir={tmp_path / 'run'}", *flags),
    experiment=of(tmp_path, "lstm", **change),
  )
  assert said in found


def test_weights_of_the_other_kind_are_refused(home):
  trained(home, "lstm", "lstm")
  experiment = of(home, "t5", init_from=str(home / "lstm"))
  found = command.call(
    "train", f"--workdir={home / 'other'}", experiment=experiment
  )
  assert found.code == 2
  assert "a recurrent encoder-decoder model, and --model is a" in found.error
