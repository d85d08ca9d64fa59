"""Imported models do what transformers does, for every family we have.

The stored numbers are of `tests/goldens/families.py`.
"""

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_jax import axes, importing
from llm_jax import model as model_lib
from llm_jax.models.blocks import Block
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.models.transformer import Decoder
from tests.interop import tiny

APART = tiny.ENCODER_DECODERS
NAMES = sorted({p.stem for p in tiny.GOLDENS.glob("*.npz")} - {*APART})
FAMILIES = pytest.mark.parametrize("name", NAMES)
SAME = lambda items, **_: items


@contextlib.contextmanager
def float64():
  """In every thread, so that a callback keeps all bits."""
  jax.config.update("jax_enable_x64", True)
  try:
    yield
  finally:
    jax.config.update("jax_enable_x64", False)


def kind(name):
  """Which settings a golden's model has."""
  return EncoderDecoderConfig if name in APART else TransformerConfig


def read(folder, dtype="float64", kind=TransformerConfig, **own):
  """A folder's shape and params, in a dtype, on one device."""
  given = f"hf:{folder}"
  shape = importing.model(given, kind(dtype=dtype, **own))
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place),
    axes.unbox(boxed["params"]),
  )
  suffixes = axes.suffixes(boxed["params"])
  params = importing.params(given, "init_from", shape, abstract, suffixes, SAME)
  return shape, params


def outputs(shape, params, golden):
  """Logits, and hidden states as transformers lists them."""
  states = {}

  def watch(next_function, args, kwargs, context):
    out = next_function(*args, **kwargs)
    if isinstance(context.module, Block) and context.method_name == "__call__":
      (x_BTD, _), _ = out
      jax.debug.callback(
        lambda layer, x: states.__setitem__(int(layer) + 1, np.asarray(x)),
        args[1],
        x_BTD,
      )
    return out

  def forward(params, ids_BT, mask_BT, place_BT):
    batch = {"segment_BT": mask_BT, "position_BT": place_BT, **more}
    with nn.intercept_methods(watch):
      x_BTD = module.apply({"params": params}, ids_BT, **batch)
    x_JD = x_BTD.reshape(-1, shape.embed_dim)
    logits_JV = module.apply({"params": params}, x_JD, method="logits")
    return x_BTD, logits_JV.reshape(*ids_BT.shape, -1)

  module = Decoder(shape)
  mask_BT = jnp.asarray(golden["mask_BT"], jnp.int32)
  place_BT = jnp.maximum(jnp.cumsum(mask_BT, 1) - 1, 0)
  ids_BT = jnp.asarray(golden["ids_BT"])
  more = {k: jnp.asarray(golden[k]) for k in ("type_BT",) if k in golden}
  last, logits = jax.jit(forward)(params, ids_BT, mask_BT, place_BT)
  jax.effects_barrier()
  middle = [states[i] for i in range(1, shape.num_layers)]
  return np.asarray(logits), np.stack([*middle, np.asarray(last)])


def largest(name, folder, dtype, **own):
  """The largest difference of logits, and of each layer's hidden state."""
  golden = tiny.golden(name)
  shape, params = read(folder, dtype, **own)
  logits, hidden = outputs(shape, params, golden)
  real = golden["mask_BT"].astype(bool)
  apart = lambda a, b: np.abs(a - b)[..., real, :].max()
  return max(
    apart(logits, golden["logits_BTV"]),
    apart(hidden, golden["hidden_LBTD"][1:]),
  )


@FAMILIES
def test_logits_and_hidden_states_are_those_of_transformers(name, tmp_path):
  golden = tiny.golden(name)
  folder = tiny.write(tmp_path / name, golden["config"], golden["tensors"])
  with float64():
    assert largest(name, folder, "float64") < 1e-9
  assert largest(name, folder, "float32") < 2e-5


def _halves_swapped(golden):
  """Rope's halves, as a conversion from neighbouring pairs gets them wrong."""

  def change(name, x):
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
      return x
    config = golden["config"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    pairs = x.reshape(-1, width // 2, 2, x.shape[-1])
    return pairs.swapaxes(1, 2).reshape(x.shape)

  return change


def _exchanged(golden):
  """Queries and keys, of a model where they have one shape."""
  draw = lambda name, x: tiny.weight(name, x.shape)
  other = {"q_proj": "k_proj", "k_proj": "q_proj"}

  def change(name, x):
    for one, two in other.items():
      if one in name:
        return draw(name.replace(one, two), x)
    return x

  return change


def _scales_off_by_one(golden):
  return lambda name, x: x + 1 if "norm" in name else x


def _transposed(golden):
  def change(name, x):
    square = x.ndim == 2 and x.shape[0] == x.shape[1]
    return x.T if square else x

  return change


def _other_half_first(golden):
  def change(name, x):
    return np.roll(x, len(x) // 2, 0) if "gate_up" in name else x

  return change


def _places_off_by_one(golden):
  return lambda name, x: np.roll(x, 1, 0) if "position_emb" in name else x


MUTANTS = {
  "halves swapped": ("llama3", _halves_swapped),
  "q and k exchanged": ("llama2", _exchanged),
  "norm offset by one": ("qwen3", _scales_off_by_one),
  "transposed kernel": ("gpt2", _transposed),
  "places off by one": ("roberta", _places_off_by_one),
  "gate and up exchanged": ("phi3", _other_half_first),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_classic_mistakes_are_caught(mutant, tmp_path):
  name, make = MUTANTS[mutant]
  golden = tiny.golden(name)
  folder = tiny.write(
    tmp_path / name,
    golden["config"],
    golden["tensors"],
    change=make(golden),
  )
  assert largest(name, folder, "float32") > 1e-2


@pytest.mark.parametrize(
  ("name", "setting", "value"),
  [
    ("mistral", "window", 5),
    ("mistral", "window", None),
    ("llama3", "rope_scaling", dataclasses.replace(
      TransformerConfig().rope_scaling, factor=1.0)),
    ("llama_mqa", "rope_theta", 10_000.0),
    ("qwen3_moe", "experts", "normalise"),
    ("qwen2_yarn", "full_layers", ()),
    ("gemma", "embed_scale", False),
    ("gemma", "norm_from_one", False),
    ("gemma2", "window", 5),
    ("gemma2", "full_layers", (0, 2)),
    ("gemma2", "attention_softcap", None),
    ("gemma2", "logit_softcap", None),
    ("gemma2", "attention_scale", None),
    ("gemma3", "window_theta", None),
    ("gemma3", "full_layers", ()),
    ("olmo2", "norm_at", "input"),
    ("phi3", "window", 6),
    ("phi3_long", "rope_dim", 0),
    ("phi3_long", "rope_scaling", "short for long"),
    ("phi3_long", "rope_scaling", "no sharpness"),
    ("phi3_short", "rope_scaling", "short for long"),
    ("modernbert", "sees", "before"),
    ("bert", "activation", "gelu"),
    ("modernbert", "window", 2),
    ("modernbert", "first_norm", True),
    ("modernbert", "window_theta", None),
    ("modernbert", "full_layers", ()),
  ],
)  # fmt: skip
def test_a_wrong_setting_is_caught(name, setting, value, tmp_path):
  golden = tiny.golden(name)
  folder = tiny.write(tmp_path / name, golden["config"], golden["tensors"])
  shape, params = read(folder, "float32")
  scaling = shape.rope_scaling
  if value == "normalise":
    value = dataclasses.replace(shape.experts, normalise=True)
  elif value == "no sharpness":
    value = dataclasses.replace(scaling, sharpness=1.0)
  elif value == "short for long":
    short, long = scaling.short_factors, scaling.long_factors
    value = dataclasses.replace(scaling, short_factors=long, long_factors=short)
  elif setting == "rope_dim":  # all dims, as if all were to be
    pad = lambda factors: (*factors, factors[-1])
    own = dataclasses.replace(
      scaling,
      short_factors=pad(scaling.short_factors),
      long_factors=pad(scaling.long_factors),
    )
    shape = dataclasses.replace(shape, rope_dim=0, rope_scaling=own)
  shape = dataclasses.replace(shape, **{setting: value})
  logits, _ = outputs(shape, params, golden)
  real = golden["mask_BT"].astype(bool)
  assert np.abs(logits - golden["logits_BTV"])[real].max() > 1e-4


def test_older_files_of_bert_are_read(tmp_path):
  """Other names of norms, a head stored twice, a pooler that nothing reads."""
  golden = tiny.golden("bert")
  plain = tiny.write(tmp_path / "a", golden["config"], golden["tensors"])
  old = tiny.write(tmp_path / "b", golden["config"], golden["tensors"])
  file = old / "model.safetensors"
  ends = {"LayerNorm.weight": "gamma", "LayerNorm.bias": "beta"}

  def older(name):
    for end, new in ends.items():
      if name.endswith(end):
        return f"{name.rsplit('.', 1)[0]}.{new}"
    return name

  tensors = {older(n): x for n, x in load_file(file).items()}
  table = tensors["bert.embeddings.word_embeddings.weight"]
  tensors["cls.predictions.decoder.weight"] = table.copy()
  tensors["bert.pooler.dense.weight"] = np.zeros((16, 16))
  tensors["cls.seq_relationship.bias"] = np.zeros(2)
  save_file(tensors, file)
  shape, want = read(plain, "float32")
  again, found = read(old, "float32")
  assert shape == again
  jax.tree.map(np.testing.assert_array_equal, found, want)
  tensors["cls.predictions.decoder.weight"] = table + 1
  save_file(tensors, file)
  with pytest.raises(ValueError, match=r"decoder\.weight is a tensor that"):
    read(old, "float32")
