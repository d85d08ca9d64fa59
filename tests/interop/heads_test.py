"""Heads of texts, tokens and spans say what those of transformers do.

The stored numbers are of `tests/goldens/heads.py`.
"""

import dataclasses
import functools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import axes, exporting, importing, trees
from llm_jax import model as model_lib
from llm_jax.contracts import Scores
from llm_jax.data.framing import Framed
from llm_jax.interop import families, heads, writing
from llm_jax.interop.folder import Folder
from llm_jax.models.config import TransformerConfig
from llm_jax.models.transformer import Decoder
from llm_jax.objectives import ranking
from tests.interop import families_test, tiny

NAMES = sorted(p.stem for p in tiny.HEADS.glob("*.npz"))
EVERY = pytest.mark.parametrize("name", NAMES)
golden = functools.partial(tiny.golden, folder=tiny.HEADS)


def made(name, folder, **how):
  found = golden(name)
  return tiny.write(folder / name, found["config"], found["tensors"], **how)


def read(folder, dtype="float32"):
  """A golden's shape and params."""
  kind = families_test.kind(folder.name.rpartition("_")[0])
  return families_test.read(folder, dtype, kind)


def read_at(shape, mask_BT):
  """Where the number of a text stands: the first token, or the last one."""
  return place(mask_BT, first=shape.sees == "all")


def place(mask_BT, first):
  places_T = np.arange(mask_BT.shape[1])
  last_B1 = np.where(mask_BT, places_T, -1).max(1, keepdims=True)
  return places_T == (0 * last_B1 if first else last_B1)


@functools.cache
def compiled(shape):
  def outputs(params, batch):
    module = model_lib.KINDS[type(shape)].module(shape)
    return module.apply({"params": params}, batch, method="score").output_BTO

  return jax.jit(outputs)


def twice(shape, found):
  """Rows that an encoder reads, and a decoder again."""
  rows = [
    Framed(ids[mask > 0], None, shape.start_id).row(len(ids))
    for ids, mask in zip(found["ids_BT"], found["mask_BT"], strict=True)
  ]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def numbers(shape, params, found, name, at=read_at, rows=twice):
  """What an objective reads of the model."""
  mask_BT = found["mask_BT"].astype(np.int32)
  batch = (
    rows(shape, found)
    if shape.reads_sources
    else {
      "tokens_BT": found["ids_BT"],
      "target_BT": found["ids_BT"],
      "segment_BT": mask_BT,
      "position_BT": np.maximum(mask_BT.cumsum(1) - 1, 0),
      **{k: found[k] for k in ("type_BT",) if k in found},
    }
  )
  batch = {k: jnp.asarray(x, jnp.int32) for k, x in batch.items()}
  output_BTO = compiled(shape)(params, batch)
  if name.endswith("_text"):
    scores = Scores(None, None, output_BTO=output_BTO)
    return np.asarray(
      ranking.output(scores, {"mask_BT": jnp.asarray(at(shape, mask_BT))})
    )
  return np.asarray(output_BTO)


def apart(said, found):
  """The largest difference, of real tokens where there is one of each."""
  real = found["mask_BT"].astype(bool)
  each = np.abs(said - found["numbers"])
  return (each[real] if each.ndim == 3 else each).max()


@EVERY
def test_numbers_are_those_of_transformers_and_are_written_again(
  name, tmp_path
):
  found, folder = golden(name), made(name, tmp_path)
  with families_test.float64():
    shape, params = read(folder, "float64")
    assert apart(numbers(shape, params, found, name), found) < 1e-9
    again(name, folder, shape, params, tmp_path / "again")


def again(name, folder, shape, params, target):
  """Bit by bit, with the names of classes, under the same architecture."""
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  settings, first = exporting.settings_of(shape), Folder(folder, "a")
  labels = heads.labels(first)
  family = families.of(first)
  of = name.rpartition("_")[2]
  _, said = exporting.described(settings, (family,), of, labels)
  assert said["architectures"] == [first.architecture]
  target.mkdir()
  writing.write(
    *(target, heads.lines(family, settings, first.architecture)),
    heads.params_without_tokens(params, settings),
    axes.suffixes(boxed["params"]),
    *("float64", 10**9, families_test.SAME),
  )
  (target / "config.json").write_text(json.dumps(said))
  second = Folder(target, "b")
  assert heads.labels(second) == labels
  one, two = (load_file(f / "model.safetensors") for f in (folder, target))
  assert one.keys() == two.keys()
  for key, x in one.items():
    assert x.shape == two[key].shape and x.tobytes() == two[key].tobytes(), key
  kind = families_test.kind(name.rpartition("_")[0])
  assert families_test.read(target, kind=kind)[0] == shape


@pytest.mark.parametrize(
  "name",
  [
    *("llama_text", "gpt2_span", "bert_text", "modernbert_token"),
    *("bart_text", "t5_span"),
  ],
)
def test_numbers_in_float32(name, tmp_path):
  shape, params = read(made(name, tmp_path))
  found = golden(name)
  assert apart(numbers(shape, params, found, name), found) < 2e-5


def _last(shape, mask_BT):
  """The last place, whatever stands there."""
  return np.arange(mask_BT.shape[1]) == np.full((len(mask_BT), 1), 7)


def _other(shape, mask_BT):
  """A decoder's place of an encoder, and an encoder's of a decoder."""
  return place(mask_BT, first=shape.sees != "all")


def _without_bias(params):
  return {**params, "output_bias": 0 * params["output_bias"]}


def _turned(params):
  """Classes in another order."""
  return {**params, "output_head": params["output_head"][:, ::-1]}


def _of_first(shape, mask_BT):
  """Of two texts, the end of the first."""
  return np.arange(mask_BT.shape[1]) == np.array([[2], [1], [3]])


SAME = lambda its: its
MUTANTS = {
  "bias dropped": ("bert_token", _without_bias, SAME, read_at),
  "bias of ends dropped": ("llama_span", _without_bias, SAME, read_at),
  "order of labels": ("llama_text", _turned, SAME, read_at),
  "pooler skipped": ("bert_text", SAME, "none", read_at),
  "dense map skipped": ("roberta_text", SAME, "none", read_at),
  "head skipped": ("modernbert_text", SAME, "none", read_at),
  "tanh in place of GELU's head": ("modernbert_token", SAME, "tanh", read_at),
  "last place": ("gpt2_text", SAME, SAME, _last),
  "last token of an encoder": ("bert_text", SAME, SAME, _other),
  "first token of a decoder": ("llama_text", SAME, SAME, _other),
  "dense map of a decoder skipped": ("bart_text", SAME, "none", read_at),
  "last place of a target": ("t5_text", SAME, SAME, _last),
  "end of the first text": ("bart_text", SAME, SAME, _of_first),
  "bias of a decoder's ends dropped": ("t5_span", _without_bias, SAME, read_at),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_classic_mistakes_are_caught(mutant, tmp_path):
  name, change, dense, at = MUTANTS[mutant]
  shape, params = read(made(name, tmp_path))
  if dense == "tanh":
    params = {**params, "output_dense": params["head_dense"]}
    bias = jnp.zeros(shape.embed_dim)
    params["output_dense"] = {"bias": bias, **params["head_dense"]}
  if isinstance(dense, str):
    shape = dataclasses.replace(shape, output_dense=dense)
  found = golden(name)
  said = numbers(shape, change(params), found, name, at)
  assert apart(said, found) > 1e-2


def _as_it_stands(shape, found):
  """A target that is its source, not moved."""
  rows = twice(shape, found)
  return rows | {"tokens_BT": rows["source_BS"]}


def _begun_with_pad(shape, found):
  other = dataclasses.replace(shape, start_id=found["config"]["pad_token_id"])
  return twice(other, found)


def _moved_left(shape, found):
  rows = twice(shape, found)
  return rows | {"tokens_BT": np.roll(rows["source_BS"], -1, 1)}


def _with_padding(shape, found):
  """What pads a source is read."""
  rows = twice(shape, found)
  return rows | {"source_segment_BS": np.ones_like(rows["source_BS"])}


def _unread(shape, found):
  """The encoder reads another text."""
  rows = twice(shape, found)
  return rows | {"source_BS": rows["source_BS"][::-1]}


@pytest.mark.parametrize(
  ("name", "rows"),
  [
    *(("bart_text", rows) for rows in (_as_it_stands, _begun_with_pad)),
    *(("t5_span", rows) for rows in (_moved_left, _with_padding, _unread)),
  ],
)
def test_other_rows_of_encoder_decoders_are_caught(name, rows, tmp_path):
  shape, params = read(made(name, tmp_path))
  found = golden(name)
  assert apart(numbers(shape, params, found, name, rows=rows), found) > 1e-2


def test_a_tanh_left_out_is_caught(tmp_path):
  shape, params = read(made("bart_text", tmp_path))
  found = golden("bart_text")
  plain = lambda self, x_BTD: self.output_dense(x_BTD)
  compiled.cache_clear()
  with mock.patch.object(Decoder, "before_outputs", plain):
    said = numbers(shape, params, found, "bart_text")
  compiled.cache_clear()
  assert apart(said, found) > 1e-2


def test_a_bart_that_tells_no_number_of_labels_has_three(tmp_path):
  found = golden("bart_text")
  gone = ("id2label", "label2id", "num_labels")
  config = {k: v for k, v in found["config"].items() if k not in gone}
  folder = tiny.write(tmp_path / "bart_text", config, found["tensors"])
  assert read(folder)[0].outputs == 3
  assert importing.classes(f"hf:{folder}") == ()


def test_a_pooler_is_read_beside_a_head_for_tokens(tmp_path):
  """What BERT was pretrained with is begun from; without it, from anew."""
  found = tiny.golden("bert")
  shape = (
    ("bert.pooler.dense.weight", [16, 16]),
    ("bert.pooler.dense.bias", [16]),
  )
  own = {"outputs": 2, "output_bias": True, "output_dense": "tanh"}
  for name, more in (("with", shape), ("without", ())):
    tensors = [*found["tensors"], *more]
    folder = tiny.write(tmp_path / name, found["config"], tensors)
    its, params = families_test.read(folder, "float32", **own)
    assert (its.outputs, its.output_dense, its.head_dense) == (2, "tanh", True)
    assert ("output_dense" in params) == (name == "with")
    assert "output_head" not in params
  _, params = families_test.read(tmp_path / "with", "float32", **own)
  kernel = tiny.weight(*shape[0]).T
  np.testing.assert_allclose(params["output_dense"]["kernel"], kernel, 1e-6)


def test_what_is_trained_from_masks_is_written_without_their_head(tmp_path):
  """Of BERT: its own names, and nothing of what told hidden tokens."""
  found = tiny.golden("bert")
  folder = tiny.write(tmp_path / "a", found["config"], found["tensors"])
  own = {"outputs": 3, "output_bias": True, "output_dense": "tanh"}
  shape, params = families_test.read(folder, "float32", **own)
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  new = {
    path: np.full(x.shape, 0.5, np.float32)
    for path, x in trees.paths(axes.unbox(boxed["params"]))
    if path.startswith("output_")
  }
  for path, x in new.items():
    trees.put(params, path, x)
  settings = exporting.settings_of(shape)
  names = ("no", "maybe", "yes")
  family, said = exporting.described(settings, names=names)
  assert said["architectures"] == ["BertForSequenceClassification"]
  assert said["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
  (tmp_path / "b").mkdir()
  writing.write(
    *(tmp_path / "b", heads.lines(family, settings, *said["architectures"])),
    heads.params_without_tokens(params, settings),
    axes.suffixes(boxed["params"]),
    *("float32", 10**9, families_test.SAME),
  )
  written = load_file(tmp_path / "b/model.safetensors")
  assert not any(name.startswith("cls.") for name in written)
  for name in ("bert.pooler.dense.weight", "classifier.bias"):
    assert (written[name] == 0.5).all(), name


def test_labels_are_told_twice_or_once(tmp_path):
  found = golden("bert_text")
  names = {"0": "a", "1": "b", "2": "c"}
  usual = {f"LABEL_{i}": i for i in range(3)}
  for ids in ({"a": 0, "b": 1, "c": 2}, {"a": "0"}, usual, {}, None):
    config = found["config"] | {"id2label": names, "label2id": ids}
    folder = tiny.write(tmp_path / "a", config, found["tensors"])
    assert heads.labels(Folder(folder, "a")) == ("a", "b", "c")


def _config(**changes):
  return lambda config: config | changes


REFUSED = {
  "mean pooling": (
    "modernbert_text",
    _config(classifier_pooling="mean"),
    {},
    "classifier_pooling='mean'; known is 'cls'",
  ),
  "other numbers": (
    "llama_text",
    _config(),
    {"outputs": 5},
    "--model.outputs=5: the model of .* says 3 numbers; 0 takes as many",
  ),
  "two labels alike": (
    "bert_text",
    _config(id2label={"0": "a", "1": "b", "2": "a"}),
    {},
    "two names are alike",
  ),
  "labels of no texts": (
    "bert_text",
    _config(id2label={"0": "a", "1": None, "2": ["c"]}),
    {},
    "names must be texts",
  ),
  "another number of labels": (
    "bert_text",
    _config(num_labels=7),
    {},
    "num_labels=7, and 3 names in id2label",
  ),
  "labels and numbers": (
    "bert_text",
    _config(
      id2label={"0": "a", "1": "b", "2": "c"},
      label2id={"a": 0, "b": 2, "c": 1},
    ),
    {},
    "label2id with 'b' as 2, which by id2label is 'c'",
  ),
  "labels of other names": (
    "bert_text",
    _config(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"A": "0"}),
    {},
    "label2id with 'A' as '0', which by id2label is 'a'",
  ),
  "labels not from 0": (
    "bert_text",
    _config(id2label={"1": "a", "2": "b", "3": "c"}),
    {},
    'its keys must be "0" to "2"',
  ),
  "too few labels": (
    "bert_token",
    _config(id2label={"0": "a", "1": "b"}),
    {},
    r"classifier.weight is \[3, 16\], and by its config.json \[2, 16\]",
  ),
  "a problem of its own": (
    "gpt2_text",
    _config(problem_type="ranking"),
    {},
    "problem_type='ranking'; known is None or 'regression'",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_head_that_cannot_be_read_is_told_in_a_line(case, tmp_path):
  name, change, own, words = REFUSED[case]
  found = golden(name)
  config = change(found["config"])
  folder = tiny.write(tmp_path / "a", config, found["tensors"])
  with pytest.raises(ValueError, match=words) as told:
    families_test.read(folder, "float32", **own)
  assert "\n" not in str(told.value)


@pytest.mark.parametrize(
  ("base", "of", "own", "words"),
  [
    ("bert", "text", {"output_bias": True}, "output_dense=none: that of Bert"),
    ("llama3", "text", {"output_bias": True}, "output_bias=True: that of Llam"),
    ("llama3", "span", {"output_bias": True}, "outputs=3: that of LlamaForQ"),
    ("gemma", "span", {"output_bias": True}, "there is no Gemma that says num"),
  ],
)
def test_a_head_that_no_folder_can_say_is_told(base, of, own, words, tmp_path):
  found = tiny.golden(base)
  folder = tiny.write(tmp_path / "a", found["config"], found["tensors"])
  shape = importing.model(f"hf:{folder}", TransformerConfig(outputs=3, **own))
  with pytest.raises(ValueError, match=words):
    exporting.described(exporting.settings_of(shape), of=of)
