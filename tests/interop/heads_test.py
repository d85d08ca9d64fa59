"""Heads of texts, tokens and spans say what those of transformers do.

The stored numbers are of `tests/goldens/heads.py`.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_jax import axes, exporting
from llm_jax import model as model_lib
from llm_jax.contracts import Scores
from llm_jax.interop import families, heads, writing
from llm_jax.interop.folder import Folder
from llm_jax.models.transformer import Decoder
from llm_jax.objectives import ranking
from tests.interop import families_test, tiny

NAMES = sorted(p.stem for p in tiny.HEADS.glob("*.npz"))
EVERY = pytest.mark.parametrize("name", NAMES)
golden = functools.partial(tiny.golden, folder=tiny.HEADS)


def made(name, folder, **how):
  found = golden(name)
  return tiny.write(folder / name, found["config"], found["tensors"], **how)


def read_at(shape, mask_BT):
  """Where the number of a text stands: the first token, or the last one."""
  places_T = np.arange(mask_BT.shape[1])
  first_B1 = np.zeros((len(mask_BT), 1), int)
  last_B1 = np.where(mask_BT, places_T, -1).max(1, keepdims=True)
  return places_T == (first_B1 if shape.sees == "all" else last_B1)


@functools.cache
def compiled(shape):
  def outputs(params, batch):
    module = Decoder(shape)
    return module.apply({"params": params}, batch, method="score").output_BTO

  return jax.jit(outputs)


def numbers(shape, params, found, name, at=read_at):
  """What an objective reads of the model."""
  mask_BT = found["mask_BT"].astype(np.int32)
  batch = {
    "tokens_BT": found["ids_BT"],
    "target_BT": found["ids_BT"],
    "segment_BT": mask_BT,
    "position_BT": np.maximum(mask_BT.cumsum(1) - 1, 0),
    **{k: found[k] for k in ("type_BT",) if k in found},
  }
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
    shape, params = families_test.read(folder)
    assert apart(numbers(shape, params, found, name), found) < 1e-9
    again(name, folder, shape, params, tmp_path / "again")


def again(name, folder, shape, params, target):
  """Bit by bit, with the names of classes, under the same architecture."""
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  settings, first = exporting.settings_of(shape), Folder(folder, "a")
  labels = heads.labels(first)
  family = families.of(first)
  of = name.split("_")[1]
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
  assert families_test.read(target)[0] == shape


@pytest.mark.parametrize(
  "name", ["llama_text", "gpt2_span", "bert_text", "modernbert_token"]
)
def test_numbers_in_float32(name, tmp_path):
  shape, params = families_test.read(made(name, tmp_path), "float32")
  found = golden(name)
  assert apart(numbers(shape, params, found, name), found) < 2e-5


def _last(shape, mask_BT):
  """The last place, whatever stands there."""
  return np.arange(mask_BT.shape[1]) == np.full((len(mask_BT), 1), 7)


def _other(shape, mask_BT):
  """A decoder's place of an encoder, and an encoder's of a decoder."""
  sees = "before" if shape.sees == "all" else "all"
  return read_at(dataclasses.replace(shape, sees=sees), mask_BT)


def _without_bias(params):
  return {**params, "output_bias": 0 * params["output_bias"]}


def _turned(params):
  """Classes in another order."""
  return {**params, "output_head": params["output_head"][:, ::-1]}


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
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_classic_mistakes_are_caught(mutant, tmp_path):
  name, change, dense, at = MUTANTS[mutant]
  shape, params = families_test.read(made(name, tmp_path), "float32")
  if dense == "tanh":
    params = {**params, "output_dense": params["head_dense"]}
    bias = jnp.zeros(shape.embed_dim)
    params["output_dense"] = {"bias": bias, **params["head_dense"]}
  if isinstance(dense, str):
    shape = dataclasses.replace(shape, output_dense=dense)
  found = golden(name)
  said = numbers(shape, change(params), found, name, at)
  assert apart(said, found) > 1e-2
