"""Runs of encoder-decoders: trained, tuned, asked; and refused."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax.data.denoisers import PrefixLM, Spans
from llm_jax.data.files import Files
from llm_jax.data.sides import SourceSide
from llm_jax.data.text import Text
from llm_jax.experiment import Samples, Validation
from llm_jax.models.encoder_decoder_config import Encoder, EncoderDecoderConfig
from llm_jax.peft.lora import LoRA
from llm_jax.peft.prompts import Prefix
from llm_jax.sharding.mesh import MeshShape
from llm_jax.tokenizers.bytes import Bytes
from tests import command
from tests.interop import tiny

EXPERIMENT = dataclasses.replace(
  command.EXPERIMENT,
  model=EncoderDecoderConfig(
    num_layers=1,
    embed_dim=8,
    mlp_dim=16,
    num_heads=2,
    max_length=64,
    positions="relative",
    dropout=0.1,
    encoder=Encoder(num_layers=2),
  ),
  tokenizer=Bytes(extra_ids=8),
  data=Text(
    sources=command.EXPERIMENT.data.sources,
    corruption=Spans(),
    length=16,
    source=SourceSide(length=24),
    validation=0.2,
  ),
  samples=Samples(every=0),
  validation=Validation(every=2, batches=1, questions=8),
  mesh=MeshShape(data=2, fsdp=2, tensor=2),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("encoder_decoder")


def train(home, name, *more, experiment=EXPERIMENT):
  return command.train_in(home, name, *more, experiment=experiment)


@pytest.fixture(scope="module")
def whole(home):
  return train(home, "whole")


def test_it_is_measured_and_asked(home, whole):
  run = f"--workdir={home / 'whole'}"
  said = command.call("evaluate", run, experiment=EXPERIMENT)
  assert said.code == 0, said.err
  path = home / "whole" / "evaluation.json"
  measures = json.loads(path.read_text())["results"]["model"]
  assert {"bits_per_target_byte", "exact_match"} <= set(measures)
  # Source and target are each as long as the model allows, not together.
  long = f"--prompt={'line' * 12}", "--samples.max_new_tokens=40"
  said = command.call("generate", run, *long, experiment=EXPERIMENT)
  assert said.code == 0 and said.out, said.err
  more = f"--prompt={'line' * 16}", "--samples.max_new_tokens=3"
  said = command.call("generate", run, *more, experiment=EXPERIMENT)
  assert said.code == 2 and "65 tokens, or" in said.error


def test_it_is_a_base_to_tune_and_to_ask_with_and_without(home, whole):
  base = str(home / "whole")
  tuned = dataclasses.replace(
    EXPERIMENT,
    init_from=base,
    peft=LoRA(rank=2),
    frozen="int8",
    validation=Validation(every=0),
  )
  train(home, "tuned", experiment=tuned)
  said = command.call(
    *("generate", f"--workdir={home / 'tuned'}", "--prompt=line"),
    *("--adapter=none", f"--adapter={home / 'tuned'}"),
    "--samples.max_new_tokens=3",
    experiment=tuned,
  )
  assert said.code == 0, said.err


def test_a_folder_of_others_goes_in_and_out(tmp_path):
  folder = tiny.whole(tmp_path / "bart", "bart", dtype=np.float32)
  run = f"--init_from=hf:{folder}", f"--workdir={tmp_path / 'none'}"
  to = tmp_path / "out"
  said = command.call("export", *run, f"--to={to}", experiment=EXPERIMENT)
  assert said.code == 0, said.err
  want, got = (load_file(f / "model.safetensors") for f in (folder, to))
  assert want.keys() == got.keys()
  for name, x in want.items():
    np.testing.assert_array_equal(got[name], x)
  drawn = json.loads((to / "generation_config.json").read_text())
  assert (drawn["decoder_start_token_id"], drawn["eos_token_id"]) == (2, [2])
  config = json.loads((to / "config.json").read_text())
  assert (config["pad_token_id"], config["is_encoder_decoder"]) == (0, True)


def test_a_run_is_written_in_the_words_of_t5(whole, home, tmp_path):
  to = tmp_path / "out"
  said = command.call(
    *("export", f"--workdir={home / 'whole'}", f"--to={to}"),
    experiment=EXPERIMENT,
  )
  assert said.code == 0, said.err
  config = json.loads((to / "config.json").read_text())
  assert (config["model_type"], config["tie_word_embeddings"]) == ("t5", False)
  # Ours has one table and divides scores: `rewriting` has the law.
  tensors = load_file(to / "model.safetensors")
  assert {"shared.weight", "lm_head.weight"} <= tensors.keys()


OTHERS = [
  (
    [],
    "--data.source.start=pad: is the id 0, and targets of the model begin with"
    " 2 (--model.start_id), which is eos",
  ),
  (["--data.source.start=eos"], "--model.first_id=1: targets of rows do not"),
]


@pytest.mark.parametrize("flags,said", OTHERS)
def test_targets_begin_as_the_model_s_do(tmp_path, flags, said):
  folder = tiny.whole(tmp_path / "bart", "bart", dtype=np.float32)
  config = json.loads((folder / "config.json").read_text())
  config["forced_bos_token_id"] = 1
  (folder / "config.json").write_text(json.dumps(config))
  data = dataclasses.replace(
    EXPERIMENT.data,
    corruption=PrefixLM(),
    sources=(Files((str(command.text_file(tmp_path)),), split_by="line"),),
  )
  found = command.call(
    *("train", f"--init_from=hf:{folder}", f"--data.cache={tmp_path}/cache"),
    *(f"--workdir={tmp_path / 'run'}", *flags),
    experiment=dataclasses.replace(EXPERIMENT, data=data),
  )
  assert found.code == 2 and said in found.error


REFUSED = [
  (["--data.source.length=0"], {}, "--data.source.length=0: an encoder-d"),
  (["--data.source.length=65"], {}, "longer than --model.max_length=64"),
  (["--mesh.context=2", "--mesh.data=1"], {}, "--mesh.context=2: encoder-dec"),
  ([], {"peft": Prefix()}, "--peft (Prefix): virtual tokens are not for"),
]


@pytest.mark.parametrize("flags,change,said", REFUSED)
def test_what_cannot_be(tmp_path, flags, change, said):
  found = command.refused(
    *(tmp_path, "train", f"--workdir={tmp_path / 'run'}", *flags),
    experiment=dataclasses.replace(EXPERIMENT, **change),
  )
  assert said in found
