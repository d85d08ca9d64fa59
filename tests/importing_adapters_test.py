"""Adapters of the `peft` library on the command line."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import claim, importing
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.experiment import Validation
from llm_jax.interop import families
from llm_jax.objectives.ranking import Ranking
from llm_jax.peft.lora import LoRA
from llm_jax.sharding.mesh import MeshShape
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule
from tests import command
from tests.interop import tiny

ASK = (
  *("--prompt=a b", "--prompt=line 7", "--samples.sampler.temperature=0"),
  "--samples.max_new_tokens=12",
)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
  """A base, and adapters of it."""
  folder = tmp_path_factory.mktemp("there")
  tiny.whole(folder / "base", dtype=np.float32)
  for name in ("llama_lora", "llama_ia3", "llama_prompt"):
    tiny.peft(folder / name, name)
  return folder


def generate(folder, base, *more):
  said = command.call(
    "generate", f"--init_from={base}", f"--workdir={folder}/none", *ASK, *more
  )
  assert said.code == 0, said.err
  return [part.partition("\n")[2] for part in said.out.split("--- ")[1:]]


def test_adapters_are_folded_in_or_put_on(there, tmp_path):
  base, lora = f"hf:{there}/base", f"peft:{there}/llama_lora"
  plain = generate(tmp_path, base)
  want = generate(tmp_path, f"{base}+{lora}")
  assert want != plain
  got = generate(tmp_path, base, f"--adapter={lora}", "--adapter=none")
  assert got == [
    text for both in zip(want, plain, strict=True) for text in both
  ]
  prompt = f"--adapter=peft:{there}/llama_prompt"
  assert generate(tmp_path, base, prompt) != plain


def test_the_base_that_adapters_name_is_found(there, tmp_path):
  want = generate(tmp_path, f"hf:{there}/base+peft:{there}/llama_lora")
  its = tiny.peft(
    tmp_path / "its", "llama_lora", base_model_name_or_path=f"{there}/base"
  )
  assert generate(tmp_path, f"peft:{its}") == want
  said = command.call("generate", f"--init_from=peft:{there}/llama_lora", *ASK)
  assert said.code == 2
  assert "names 'no base', which is no folder here" in said.error
  for name in ("~nobody_at_all/x", "a" * 5000, "\0"):
    tiny.peft(tmp_path / "its", "llama_lora", base_model_name_or_path=name)
    said = command.call("generate", f"--init_from=peft:{its}", *ASK)
    assert said.code == 2 and "which is no folder here" in said.error


def test_a_run_goes_on_from_adapters_and_is_exported(there, tmp_path):
  """As a base of a run, of a run of that run, and merged in an export."""
  base = f"hf:{there}/base+peft:{there}/llama_lora"
  want = generate(tmp_path, base)
  text = command.text_file(tmp_path)
  flags = [
    *command.train_flags(tmp_path, text),
    *("--steps=0", "--validation.every=0", "--samples.every=0"),
  ]
  said = command.call("train", f"--init_from={base}", *flags)
  assert said.code == 0, said.err
  asked = (f"--workdir={tmp_path}/run", *ASK)
  said = command.call("generate", *asked)
  assert [p.partition("\n")[2] for p in said.out.split("--- ")[1:]] == want
  measured = command.call(
    "evaluate", f"--workdir={tmp_path}/run", "--validation.baselines=false"
  )
  assert measured.code == 0, measured.err
  to = tmp_path / "merged"
  said = command.call(
    "export", f"--init_from={base}", f"--workdir={tmp_path}/none", f"--to={to}"
  )
  assert said.code == 0, said.err
  assert generate(tmp_path, f"hf:{to}") == want
  more = f"{tmp_path}/run+peft:{there}/llama_ia3"
  again = [f"--workdir={tmp_path}/again", *flags[1:], f"--init_from={more}"]
  wide = claim.settings(tmp_path / "run")
  said = command.call("train", *again, experiment=wide)
  assert said.code == 0, said.err
  said = command.call("generate", f"--workdir={tmp_path}/again", *ASK)
  assert [p.partition("\n")[2] for p in said.out.split("--- ")[1:]] != want


def test_what_is_exported_does_what_the_run_does(tmp_path):
  """In the words of its base, of which a tensor holds several maps."""
  base = tiny.whole(tmp_path / "base", "phi3", dtype=np.float32)
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    peft=LoRA(rank=2, targets=("attention/query", "attention/key", "mlp/*")),
    optimizer=AdamW(peak=0.3, schedule=Schedule("constant", warmup=0)),
    validation=Validation(every=0),
    samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
  )
  text = command.text_file(tmp_path)
  flags = command.train_flags(tmp_path, text)
  given = f"--init_from=hf:{base}"
  said = command.call("train", given, *flags, experiment=experiment)
  assert said.code == 0, said.err
  run, to = f"--workdir={tmp_path}/run", tmp_path / "its"
  said = command.call("export", run, "--adapter=peft", f"--to={to}")
  assert said.code == 0, said.err
  config = json.loads((to / "adapter_config.json").read_text())
  assert config["target_modules"] == ["down_proj", "gate_up_proj", "qkv_proj"]
  assert config["rank_pattern"] == {"gate_up_proj": 4, "qkv_proj": 4}
  said = command.call("generate", run, *ASK)
  want = [part.partition("\n")[2] for part in said.out.split("--- ")[1:]]
  assert generate(tmp_path, f"peft:{to}") == want
  assert generate(tmp_path, f"hf:{base}") != want


def test_a_head_that_was_trained_goes_along(there, tmp_path):
  experiment = dataclasses.replace(
    command.EXPERIMENT,
    data=Preferences(
      sources=(PreferenceFiles(),), length=32, validation=0.3, template="plain"
    ),
    objective=Ranking(),
    mesh=MeshShape(data=1),
    model=dataclasses.replace(command.EXPERIMENT.model, outputs=1),
    peft=LoRA(rank=2),
    optimizer=AdamW(peak=0.03, schedule=Schedule("constant", warmup=0)),
    validation=Validation(every=0),
    samples=dataclasses.replace(command.EXPERIMENT.samples, every=0),
  )
  rows = [
    json.dumps(
      {"prompt": f"{i}?", "chosen": "ab" * (1 + i % 5), "rejected": "x"}
    )
    for i in range(40)
  ]
  path = command.text_file(tmp_path, "rows.jsonl", rows)
  _, *data = command.train_flags(tmp_path, path)

  def loss(name, base, *flags):
    run = f"--workdir={tmp_path / name}"
    more = (f"--init_from={base}", "--rewards.normalise=none", *data, *flags)
    for verb, given in (("train", more), ("evaluate", ())):
      said = command.call(verb, run, *given, experiment=experiment)
      assert said.code == 0, said.err
    found = json.loads((tmp_path / name / "evaluation.json").read_text())
    return found["results"]["model"]["loss"]

  want = loss("run", f"hf:{there}/base")
  to = tmp_path / "its"
  said = command.call(
    "export", f"--workdir={tmp_path}/run", "--adapter=peft", f"--to={to}"
  )
  assert said.code == 0, said.err
  config = json.loads((to / "adapter_config.json").read_text())
  assert config["task_type"] == "SEQ_CLS"
  assert config["modules_to_save"] == ["score"]
  base = f"hf:{there}/base+peft:{to}"
  assert abs(loss("again", base, "--steps=0") - want) < 1e-5
  other = loss("other", f"hf:{there}/base", "--steps=0")
  assert abs(other - want) > 1e-3


def _of_phi3(folder):
  """Adapters of one map of queries, keys and values, as Phi-3 has it."""
  _config(target_modules=["qkv_proj"])(folder)
  stem = "base_model.model.model.layers.{}.self_attn.qkv_proj.lora_{}.weight"
  shapes = {"A": (3, 16), "B": (32, 3)}
  tensors = {
    stem.format(i, k): tiny.adapter(k, shape).astype(np.float32)
    for i in range(3)
    for k, shape in shapes.items()
  }
  save_file(tensors, folder / "adapter_model.safetensors")


def test_adapters_of_another_kind_of_base(there, tmp_path, monkeypatch):
  """By the names of its maps, or by the base that they name, if it is here."""
  given = f"--init_from=hf:{there}/base+peft:{tmp_path}/its"
  ask = ("generate", given, f"--workdir={tmp_path}/none", *ASK)
  phi3 = tiny.whole(tmp_path / "phi3", "phi3", dtype=np.float32)
  its = tiny.peft(
    tmp_path / "its", "llama_lora", base_model_name_or_path=str(phi3)
  )
  said = command.call(*ask)
  assert said.code == 2 and "a model of type 'phi3', and hf:" in said.error
  put_on = ("generate", f"--init_from=hf:{there}/base", *ask[2:])
  said = command.call(*put_on, f"--adapter=peft:{its}")
  assert said.code == 2 and "a model of type 'phi3', and hf:" in said.error
  # One that is not here is named.
  tiny.peft(its, "llama_lora", base_model_name_or_path="someone/another")
  said = command.call(*ask)
  assert said.code == 0 and "made for someone/another; here it is" in said.err
  tiny.peft(its, "llama_lora", base_model_name_or_path="someone/base")
  said = command.call(*ask)
  assert said.code == 0 and "made for" not in said.err
  _of_phi3(its)
  said = command.call(*ask)
  assert said.code == 2
  assert "qkv_proj.lora_A.weight is a tensor for which this" in said.error
  # The mutant: a base is read in the names of any family.
  monkeypatch.setattr(importing, "words", lambda given: families.FAMILIES)
  assert command.call(*ask).code == 0


def _config(**change):
  def spoil(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

  return spoil


def _tensors(change):
  def spoil(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)

  return spoil


def _cut(folder):
  path = folder / "adapter_model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def _pickled(folder):
  path = folder / "adapter_model.safetensors"
  path.rename(folder / "adapter_model.bin")


_Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
_MORE = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"
WRONG = {
  "no folder": (lambda f: f.rename(f.parent / "gone"), "no such folder"),
  "no config": (
    lambda f: (f / "adapter_config.json").unlink(),
    "holds no adapter_config.json",
  ),
  "kind": (
    _config(peft_type="VERA"),
    "peft_type='VERA'; known are LORA, IA3, PROMPT_TUNING",
  ),
  "bias": (_config(bias="all"), "bias='all'; known is 'none'"),
  "begins": (
    _config(init_lora_weights="pissa"),
    "init_lora_weights='pissa', with which the base was changed",
  ),
  "unknown key": (
    _config(layer_replication=[[0, 4]]),
    "layer_replication=[[0, 4]], which is not known",
  ),
  "rank": (_config(r=4), "q_proj.lora_A.weight is [3, 16], and of this base"),
  "no rank": (_config(r=0), "r=0; it must be a whole number from 1"),
  "a pattern": (
    _config(rank_pattern={".*q_proj": 2}),
    "'.*q_proj' in rank_pattern; read are names of maps",
  ),
  "targets": (_config(target_modules=7), "target_modules=7; it must be a list"),
  "more targets": (
    _config(target_modules=["q_proj", "k_proj"]),
    "layers.0.self_attn.k_proj.lora_A.weight is missing",
  ),
  "no such layer": (
    _config(layers_to_transform=[99]),
    "layers.0.self_attn.q_proj.lora_A.weight is there, and by target_modules,",
  ),
  "fewer targets": (
    _config(target_modules=["q_proj"]),
    "lora_A.weight is there, and by target_modules,",
  ),
  "no tensors": (
    lambda f: [
      s(f) for s in (_tensors(dict.clear), _config(target_modules=".*"))
    ],
    "holds no tensor at all",
  ),
  "dropout": (_config(lora_dropout=1.0), "lora_dropout=1.0; it must be from 0"),
  "saved by a pattern": (
    _config(modules_to_save="lm_head"),
    "modules_to_save='lm_head'; it must be a list",
  ),
  "tokens": (
    _config(trainable_token_indices=[1]),
    "trainable_token_indices=[1]; known is None",
  ),
  "cut short": (_cut, "adapter_model.safetensors is no whole safetensors file"),
  "pickles": (
    _pickled,
    "pickles only (adapter_model.bin), which can run code; save it as"
    " adapter_model.safetensors",
  ),
  "half a pair": (
    _tensors(lambda t: t.pop(f"{_Q}B.weight")),
    "model.layers.1.self_attn.q_proj.lora_B.weight is missing",
  ),
  "unknown": (
    _tensors(lambda t: t.update({_MORE: t[f"{_Q}A.weight"]})),
    "model.layers.9.self_attn.q_proj.lora_A.weight is a tensor for which this"
    " base has no place",
  ),
  "wrong base": (
    _tensors(lambda t: t.update({f"{_Q}A.weight": np.ones((3, 24))})),
    "q_proj.lora_A.weight is [3, 24], and of this base [3, 16]",
  ),
  "not finite": (
    _tensors(lambda t: t.update({f"{_Q}A.weight": np.full((3, 16), np.nan)})),
    "q_proj.lora_A.weight has numbers that are not finite",
  ),
  "a head": (
    _config(modules_to_save=["lm_head"]),
    "lm_head is missing",
  ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_folders_are_told_in_a_line(wrong, there, tmp_path):
  spoil, expected = WRONG[wrong]
  folder = tiny.peft(tmp_path / "its", "llama_lora")
  spoil(folder)
  said = command.call(
    "generate",
    f"--init_from=hf:{there}/base+peft:{folder}",
    f"--workdir={tmp_path}/none",
    "--prompt=a",
  )
  assert said.code == 2
  assert expected in said.error
  assert f"peft:{folder}" in said.error


def test_what_cannot_be_folded_in_is_told(there, tmp_path):
  given = f"--init_from=hf:{there}/base+peft:{there}/llama_prompt"
  said = command.call(
    "generate", given, f"--workdir={tmp_path}/none", "--prompt=a"
  )
  assert said.code == 2
  assert "prompt: cannot be merged" in said.error
