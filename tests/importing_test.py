"""--init_from=hf:PATH by the command line: what is done, what is refused."""

import json

import numpy as np
import pytest

from llm_jax import claim, weights
from tests import command, encoder_decoder_runs_test
from tests.interop import tiny
from tests.tokenizers import older_test


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp("base") / "tiny"
  return tiny.whole(folder, dtype=np.float32, files=2)


def flags_of(folder, base):
  text = command.text_file(folder)
  return (f"--init_from=hf:{base}", *command.train_flags(folder, text))


def test_a_folder_is_shown_trained_resumed_measured_and_asked(base, tmp_path):
  given = flags_of(tmp_path, base)
  said = command.call("show", *given)
  assert said.code == 0, said.err
  assert "--model.num_layers=3" in said.out
  assert "num_layers=3" in said.err  # in place of the experiment's
  ask = (f"--init_from=hf:{base}", f"--workdir={tmp_path}/none", "--prompt=a b")
  before = command.call("generate", *ask)
  assert before.code == 0, before.err
  said = command.call("evaluate", *given, "--validation.baselines=false")
  assert said.code == 0, said.err
  measured = json.loads((tmp_path / "run/evaluation.json").read_text())
  assert measured["checkpoint_step"] == 0
  for steps in (1, 2):
    said = command.call("train", *given, f"--steps={steps}")
    assert said.code == 0, said.err
  run = claim.settings(tmp_path / "run")
  assert run.model.num_layers == 3 and run.model.rope_scaling.factor == 8
  said = command.call("generate", f"--workdir={tmp_path}/run", "--prompt=a b")
  assert said.code == 0 and said.out.startswith("a b")
  rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  first = next(r for r in map(json.loads, rows) if r["split"] == "train")
  loss = measured["results"]["model"]["loss"]
  assert abs(first["loss"] - loss) < 0.5  # of other rows of the same text


def test_a_folder_with_tokenizer_model_alone(tmp_path):
  """Asked, and exported with a tokenizer.json of the same ids."""
  import tokenizers

  folder = tiny.whole(tmp_path / "old", vocab=400, dtype=np.float32)
  (folder / "tokenizer.json").unlink()
  older_test.write(folder, "llama")
  given = (f"--init_from=hf:{folder}", f"--workdir={tmp_path}/none")
  said = command.call("generate", *given, "--prompt=the fox")
  assert said.code == 0 and said.out.startswith("the fox"), said.err
  said = command.call("export", *given, f"--to={tmp_path}/new")
  assert said.code == 0, said.err
  made = tokenizers.Tokenizer.from_file(str(tmp_path / "new/tokenizer.json"))
  for text, ids in older_test.GOLDENS["llama"]["ids"].items():
    assert made.encode(text).ids == [1, *ids]
  (folder / "config.json").write_text(
    (folder / "config.json").read_text().replace("400", "381")
  )
  said = command.call("generate", *given, "--prompt=x")
  assert said.code == 2 and "381" in said.error and "382" in said.error


def test_a_flag_that_the_folder_contradicts_is_refused(base, tmp_path):
  given = flags_of(tmp_path, base)
  said = command.call("plan", *given, "--model.num_layers=5")
  assert said.code == 2
  assert "--model.num_layers=5: the model of" in said.error
  assert "has 3" in said.error
  said = command.call("plan", *given, "--model.unroll=0")
  assert said.code == 0, said.err


def test_a_folder_that_is_given_as_a_run(base, tmp_path):
  """The error says how it is given; of what is no such folder nothing."""
  other = command.train_flags(tmp_path, command.text_file(tmp_path))
  for flag in ("init_from", "value_from"):
    with pytest.raises(ValueError, match=f"--{flag}=hf:{base}$"):
      weights.origin(str(base), flag)
  said = command.call("train", f"--init_from={base}", *other)
  assert said.code == 2
  assert said.error.endswith(
    f"no trained run; it has config.json, so that it is --init_from=hf:{base}"
  )
  adapters = tiny.peft(tmp_path / "its", "llama_lora")
  with pytest.raises(ValueError, match=f"--init_from=peft:{adapters}$"):
    weights.origin(str(adapters))
  for folder, flag in ((adapters, "value_from"), (tmp_path, "init_from")):
    with pytest.raises(ValueError, match="holds no trained run$"):
      weights.origin(str(folder), flag)


def test_a_folder_of_another_kind_of_model(tmp_path):
  """The error says which model an experiment for it has."""
  folder = tiny.whole(tmp_path / "t5", "t5", dtype=np.float32)
  said = command.call("show", f"--init_from=hf:{folder}")
  assert said.code == 2
  assert said.error.endswith("with model=EncoderDecoderConfig()")


def _config(**change):
  def spoil(folder):
    path = folder / "config.json"
    found = json.loads(path.read_text()) | change
    path.write_text(json.dumps(found))

  return spoil


def _cut(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def _pickled(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _rewrite(change):
  def spoil(folder):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)

  return spoil


def _token_of(i):
  """A token of such an id in tokenizer.json."""

  def spoil(folder):
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"]["many"] = i
    path.write_text(json.dumps(found))

  return spoil


def _indexed(value):
  """model.safetensors with an index that says something else of its file."""

  def spoil(folder):
    index = {"weight_map": value}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

  return spoil


def _rotary(**change):
  def spoil(folder):
    found = json.loads((folder / "config.json").read_text())
    _config(rope_parameters=found["rope_parameters"] | change)(folder)

  return spoil


def _named(word):
  """tokenizer_config.json says a token that ends a text."""
  said = json.dumps({"eos_token": word})
  return lambda folder: (folder / "tokenizer_config.json").write_text(said)


_NORM = "model.norm.weight"
_SIZE = "it must be a whole number from 1"
WRONG = {
  "no folder": (lambda f: f.rename(f.parent / "gone"), "no such folder"),
  "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
  "broken config": (
    lambda f: (f / "config.json").write_text("{"),
    "config.json cannot be read",
  ),
  "architecture": (
    _config(architectures=["Mamba2ForCausalLM"]),
    "'Mamba2ForCausalLM'; nearest are ",
  ),
  "code": (_config(auto_map={"AutoModel": "x.Y"}), "code of its own"),
  "quantised": (_config(quantization_config={"bits": 4}), "quantised"),
  "unknown key": (_config(attn_sinks=4), "attn_sinks=4, which is not known"),
  "activation": (_config(hidden_act="gelu"), "hidden_act='gelu'; known is"),
  "rope": (
    _config(rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
    "rope_type='dynamic', which changes with the length of what is read; known",
  ),
  "deep config": (
    lambda f: (f / "config.json").write_text("[" * 100_000),
    "config.json cannot be read",
  ),
  "architectures": (_config(architectures=7), "must be a list of names"),
  "text for a size": (_config(num_hidden_layers="3"), _SIZE),
  "no layers": (_config(num_hidden_layers=0), _SIZE),
  "half a layer": (_config(num_hidden_layers=2.5), _SIZE),
  "no heads": (_config(num_attention_heads=0), _SIZE),
  "a size too large": (_config(hidden_size=10**30), _SIZE),
  "too many layers": (
    _config(num_hidden_layers=10**9),
    "--model.num_layers=1000000000; must be a whole number, from 1 to 10000",
  ),
  "odd heads": (
    _config(head_dim=3),
    "config.json makes --model.head_dim=3: rope needs an even width",
  ),
  "negative": (_config(rms_norm_eps=-1.0), "--model.norm_eps=-1.0; must be"),
  "word for a switch": (_config(attention_bias="no"), "must be true or false"),
  "rope no object": (_config(rope_parameters="x"), "must be an object"),
  "rope nested": (
    _rotary(factor={"a": 1}),
    "factor={'a': 1}; it must be a finite number",
  ),
  "rope bounds": (_rotary(low_freq_factor=4.0), "low_factor=4.0: must be"),
  "rope of no length": (
    _rotary(original_max_position_embeddings=0),
    "--model.rope_scaling.original_length=0; must be",
  ),
  "index outside": (
    _indexed({_NORM: "../base/model.safetensors"}),
    "'../base/model.safetensors', which is no name of a file beside it",
  ),
  "index of numbers": (_indexed({_NORM: 5}), "names 5, which is no name"),
  "index no object": (_indexed([_NORM]), "weight_map of"),
  "not finite": (
    _rewrite(lambda t: t.update({_NORM: np.full(16, np.nan, np.float32)})),
    f"{_NORM} has numbers that are not finite",
  ),
  "no token": (_named(["a"]), "['a'] is named as a token, and is none"),
  "token of no text": (_named(9999), "which token ends a text"),
  "cut short": (_cut, "model.safetensors is no whole safetensors file"),
  "pickles": (_pickled, "pickles only (pytorch_model.bin)"),
  "no weights": (
    lambda f: (f / "model.safetensors").unlink(),
    "holds neither model.safetensors nor",
  ),
  "missing": (_rewrite(lambda t: t.pop(_NORM)), f"{_NORM} is missing"),
  "unknown": (
    _rewrite(lambda t: t.update(extra=np.ones(3))),
    "extra is a tensor that nothing reads",
  ),
  "shape": (
    _rewrite(lambda t: t.update({_NORM: np.ones(7)})),
    f"{_NORM} is [7], and by its config.json [16]",
  ),
  "integers": (
    _rewrite(lambda t: t.update({_NORM: np.ones(16, np.int8)})),
    f"{_NORM} is of I8",
  ),
  "vocabulary": (_token_of(999), "the tokenizer has 1000 ids"),
  "no tokenizer": (
    lambda f: (f / "tokenizer.json").unlink(),
    "holds no tokenizer.json",
  ),
  "tokenizer's settings": (
    lambda f: (f / "tokenizer_config.json").write_text("[1]"),
    "tokenizer_config.json: is no object of JSON",
  ),
  "an id of 2^31": (_token_of(2**31), "names the id 2147483648; at most"),
  "broken tokenizer": (
    lambda f: (f / "tokenizer.json").write_text("{}"),
    "tokenizer.json is no tokenizer",
  ),
}


@pytest.mark.parametrize("verb", ["evaluate", "train"])
@pytest.mark.parametrize(
  "flags,says",
  [
    (["--data.split=nowhere"], "--data.split"),
    (["--data.length=9999"], "--data.length=9999: longer than"),
    (["--data.validation=0"], "validation split is empty"),
  ],
)
def test_what_is_refused_leaves_nothing(verb, flags, says, base, tmp_path):
  given = (*flags_of(tmp_path, base), *flags)
  assert says in command.refused(tmp_path, verb, *given)


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_folders_are_told_in_a_line(wrong, tmp_path):
  spoil, expected = WRONG[wrong]
  folder = tiny.whole(tmp_path / "base", dtype=np.float32)
  spoil(folder)
  said = command.call(
    "generate",
    f"--init_from=hf:{folder}",
    f"--workdir={tmp_path}/none",
    "--prompt=a",
  )
  assert said.code == 2
  assert expected in said.error
  assert f"hf:{folder}" in said.error or "vocab" in said.error


def test_a_run_keeps_the_tokenizer_and_what_is_beside_it(base, tmp_path):
  given = flags_of(tmp_path, base)
  said = command.call("train", *given, "--steps=1", "--validation.every=0")
  assert said.code == 0, said.err
  kept = tmp_path / "run/tokenizer"
  about = json.loads((kept / "tokenizer.json").read_text())
  assert about["kind"] == "pretrained" and about["named"]["eos"] == "</s>"
  assert list(about["beside"]) == ["tokenizer_config.json"]
  whole = (base / "tokenizer.json").read_bytes()
  assert (kept / "pretrained.json").read_bytes() == whole
  (kept / "pretrained.json").write_bytes(whole + b" ")
  said = command.call("generate", f"--workdir={tmp_path}/run", "--prompt=a")
  assert said.code == 2 and "is not the file once written" in said.error


def test_an_encoder_goes_on_with_no_text(tmp_path):
  folder = tiny.whole(tmp_path / "bert", "bert", dtype=np.float32)
  given = (f"--init_from=hf:{folder}", f"--workdir={tmp_path}/none")
  said = command.call("generate", *given, "--prompt=a")
  assert said.code == 2
  assert "an encoder (--model.sees=all) goes on with no text" in said.error


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody_at_all/x", ""])
def test_what_is_no_name_of_a_folder(name):
  said = command.call("generate", f"--init_from=hf:{name}", "--prompt=a")
  assert said.code == 2 and said.error.startswith("error: --init_from=")
  assert len(said.error) < 300


WRONG_ENCODER_DECODERS = {
  ("bart", "decoder_start_token_id", 264): "start_id=264: no id of --model.voc",
  ("bart", "forced_bos_token_id", 999): "first_id=999: no id of --model.voc",
  ("bart", "encoder_attention_heads", 3): "encoder.num_heads=3: must divide",
  ("t5", "is_encoder_decoder", False): "is_encoder_decoder=False; known is",
  ("t5", "relative_attention_max_distance", 4): "relative_distance=4: must be",
}


@pytest.mark.parametrize("wrong", WRONG_ENCODER_DECODERS)
def test_bad_encoder_decoders_are_told_in_a_line(wrong, tmp_path):
  name, key, value = wrong
  folder = tiny.whole(tmp_path / "base", name, dtype=np.float32)
  _config(**{key: value})(folder)
  given = f"--init_from=hf:{folder}"
  its = encoder_decoder_runs_test.EXPERIMENT
  said = command.call("show", given, experiment=its)
  assert said.code == 2 and given in said.error
  assert WRONG_ENCODER_DECODERS[wrong] in said.error
