"""The verb `export`: what is written is what was read, and can be read."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import axes, claim, exporting, trees
from llm_jax import model as model_lib
from llm_jax.interop import families, lines, writing
from llm_jax.interop.folder import Folder
from llm_jax.models import presets
from llm_jax.peft.lora import LoRA
from llm_jax.tokenizers import exported, samples, store
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.tokenizers.sentencepiece import SentencePiece
from tests import command
from tests.interop import families_test, tiny

SAME = lambda items, **_: items


@pytest.mark.parametrize("name", [*families_test.NAMES, *families_test.APART])
def test_what_is_read_is_written_bit_by_bit(name, tmp_path):
  golden, kind = tiny.golden(name), families_test.kind(name)
  first = tiny.write(tmp_path / "a", golden["config"], golden["tensors"])
  with families_test.float64():
    shape, params = families_test.read(first, kind=kind)
    boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
    settings = exporting.settings_of(shape)
    own = families.of(Folder(first, "a"))
    family, said = exporting.described(settings, (own,))
    second = tmp_path / "b"
    second.mkdir()
    writing.write(
      second,
      family.lines(settings),
      params,
      axes.suffixes(boxed["params"]),
      "float64",
      5000,
      SAME,
    )
    (second / "config.json").write_text(json.dumps(said))
    tensors = Folder(second, "b").tensors()
    assert len({t.file for t in tensors.values()}) > 1
    want = load_file(first / "model.safetensors")
    assert want.keys() == tensors.keys()
    for key, x in want.items():
      got = Folder(second, "b").read(tensors[key])
      assert got.shape == x.shape and got.tobytes() == x.tobytes(), key
    again, others = families_test.read(second, kind=kind)
    # A window in no layer, and the name of a family, may be told otherwise.
    assert again == shape
    jax.tree.map(np.testing.assert_array_equal, params, others)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  text = command.text_file(folder)
  flags = command.train_flags(folder, text)
  said = command.call("train", *flags, experiment=command.EXPERIMENT)
  assert said.code == 0, said.err
  return folder / "run"


def test_an_exported_run_says_the_same(run, tmp_path):
  to = tmp_path / "out"
  said = command.call(
    "export", f"--workdir={run}", f"--to={to}", "--licence=mit",
    "--shard_size=0.000004",
  )  # fmt: skip
  assert said.code == 0, said.err
  there = {p.name for p in to.iterdir()}
  assert {"config.json", "tokenizer.json", "README.md"} <= there
  assert "model.safetensors.index.json" in there
  assert not any(name.endswith(".partial") for name in there)
  assert not list(tmp_path.glob("*.partial"))
  assert "license: mit" in (to / "README.md").read_text()
  ask = ("--prompt=line 7", "--samples.sampler.temperature=0")
  ours = command.call("generate", f"--workdir={run}", *ask)
  theirs = command.call(
    "generate", f"--init_from=hf:{to}", f"--workdir={tmp_path}/none", *ask
  )
  assert (ours.code, theirs.code) == (0, 0), theirs.err
  assert ours.out == theirs.out
  again = command.call("export", f"--workdir={run}", f"--to={to}")
  assert again.code == 2 and "is there already" in again.error


def test_what_the_format_cannot_say_is_refused(run, tmp_path):
  shape = dataclasses.replace(presets.tiny(), vocab_size=300, norm="layer")
  with pytest.raises(ValueError, match="no family of the ecosystem"):
    exporting.described(exporting.settings_of(shape))
  flags = ("export", f"--workdir={run}")
  to = f"--to={tmp_path}/x"
  assert "--to: no folder" in command.call(*flags).error
  assert "must be hf" in command.call(*flags, to, "--format=gguf").error
  assert "one of" in command.call(*flags, to, "--weights_dtype=int3").error
  assert not (tmp_path / "x").exists()


TEXT = "to be or not to be, that is\tthe question\n  \u4f60 1234\n" * 20


@pytest.mark.parametrize(
  "settings",
  [
    Bytes(extra_ids=2),
    SentencePiece(kind="bpe", vocab_size=300),
    SentencePiece(kind="char"),
  ],
  ids=str,
)
def test_our_tokenizers_encode_alike_as_tokenizer_json(settings, tmp_path):
  import tokenizers

  ours = store.obtain(settings, lambda: iter([TEXT]), tmp_path)
  model, said = exported.files(ours, [TEXT])
  theirs = tokenizers.Tokenizer.from_buffer(model)
  for text in (TEXT, *samples.SAMPLES):
    ids = theirs.encode(text).ids
    assert ids == [ours.start_id, *ours.encode(text)]
    assert theirs.decode(ids) == text
  assert theirs.get_vocab_size() == ours.vocab_size
  assert theirs.token_to_id(said["eos_token"]) == ours.eos_id


def test_a_tokenizer_that_would_differ_is_refused(tmp_path, monkeypatch):
  ours = store.obtain(
    SentencePiece(kind="bpe", vocab_size=300), lambda: iter([TEXT]), tmp_path
  )
  pieces = ours.pieces()
  turned = [*pieces[:-2], pieces[-1], pieces[-2]]  # of other ids
  monkeypatch.setattr(type(ours), "pieces", lambda self: turned)
  with pytest.raises(ValueError, match="otherwise as tokenizer.json"):
    exported.files(ours, [TEXT])


LORA = dataclasses.replace(command.EXPERIMENT, peft=LoRA(rank=2, alpha=6.0))


def test_adapters_alone_say_what_merged_ones_do(tmp_path):
  text = command.text_file(tmp_path)
  flags = command.train_flags(tmp_path, text)
  said = command.call("train", *flags, experiment=LORA)
  assert said.code == 0, said.err
  run = f"--workdir={tmp_path}/run"
  for more, to in (("--adapter=peft", "alone"), ("", "merged")):
    given = [run, f"--to={tmp_path}/{to}", *filter(None, [more])]
    said = command.call("export", *given, "--weights_dtype=float64")
    assert said.code == 0, said.err
  config = json.loads((tmp_path / "alone/adapter_config.json").read_text())
  assert (config["r"], config["lora_alpha"]) == (2, 6.0)
  alone = load_file(tmp_path / "alone/adapter_model.safetensors")
  merged = load_file(tmp_path / "merged/model.safetensors")
  experiment = claim.settings(tmp_path / "run")
  base = first_weights(experiment)
  for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"):
    name = f"model.layers.0.{name}"
    a = alone[f"base_model.model.{name}.lora_A.weight"]
    b = alone[f"base_model.model.{name}.lora_B.weight"]
    moved = base[f"{name}.weight"] + config["lora_alpha"] / config["r"] * b @ a
    np.testing.assert_allclose(merged[f"{name}.weight"], moved, atol=1e-6)
    assert np.abs(b).max() > 0
  assert config["target_modules"] == sorted(
    f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")
  )


def first_weights(experiment):
  """Tensors, by their names, of the base that a run made from its seed."""
  model = model_lib.of_shape(model_lib.expected_shape(experiment))
  params = axes.unbox(model.init(jax.random.key(experiment.seed)))["params"]
  out = {}
  settings = exporting.settings_of(model.shape)
  boxed = jax.eval_shape(model.init, jax.random.key(0))["params"]
  letters = dict(trees.paths(axes.suffixes(boxed)))
  for line in exporting.described(settings)[0].lines(settings):
    x = np.asarray(trees.get(params, line.path))
    if line.counted == "L":
      out[line.name.format(layer=0)] = lines.theirs(
        line, letters[line.path], x[0]
      )
  return out


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ({"shard_size": float("nan")}, "--shard_size=nan: must be more than 0"),
    ({"shard_size": float("inf")}, "--shard_size=inf: must be more than 0"),
    (
      {"licence": "mit\ntags: x"},
      "--licence='mit\\ntags: x': must be one line",
    ),
  ],
)
def test_flags_that_say_nothing_are_refused(given, expected, tmp_path):
  plain = dict.fromkeys(exporting.FLAGS) | {
    "format": "hf",
    "to": f"{tmp_path}/new",
    "shard_size": 2.0,
    "weights_dtype": "float32",
    "licence": "mit",
    "adapter": [],
  }
  assert exporting.wanted(plain).licence == "mit"
  with pytest.raises(ValueError) as told:
    exporting.wanted(plain | given)
  assert str(told.value).startswith(expected)


@pytest.mark.parametrize(
  "name", ["a" * 250, "a\0b", "link", "~nobody_at_all/x"]
)
def test_what_is_no_new_folder_is_refused_first(name, tmp_path):
  (tmp_path / "link").symlink_to(tmp_path)
  to = name if name[0] == "~" else f"{tmp_path}/{name}"
  said = {"format": "hf", "to": to, "shard_size": 2.0, "licence": "mit"}
  given = said | {"weights_dtype": "float32", "adapter": []}
  with pytest.raises(ValueError, match="^--to="):
    exporting.wanted(given)
