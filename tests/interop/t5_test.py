"""T5 v1.1: read from a folder, it is what transformers says it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import axes, importing
from llm_jax import model as model_lib
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder import EncoderDecoder
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from tests.interop import families_test, tiny

GOLDEN = tiny.golden("t5")


def read(folder, dtype):
  given = f"hf:{folder}"
  shape = importing.model(given, EncoderDecoderConfig(dtype=dtype))
  boxed = jax.eval_shape(model_lib.of_shape(shape).init, jax.random.key(0))
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place),
    axes.unbox(boxed["params"]),
  )
  suffixes = axes.suffixes(boxed["params"])
  params = importing.params(
    given, "init_from", shape, abstract, suffixes, families_test.SAME
  )
  return shape, {"params": params}


def largest(folder, dtype):
  """The largest difference of logits and of hidden states of both stacks."""
  shape, variables = read(folder, dtype)
  model, real = EncoderDecoder(shape), GOLDEN["mask_BS"].astype(bool)
  rows = {
    "tokens_BT": jnp.asarray(GOLDEN["ids_BT"]),
    "source_BS": jnp.asarray(GOLDEN["source_BS"]),
    "source_segment_BS": jnp.asarray(GOLDEN["mask_BS"], jnp.int32),
  }
  written = model.apply(variables, rows, method="hidden")
  source = model.apply(variables, rows, method="hidden_source")
  logits = model.apply(variables, written[-1], method="logits")
  apart = lambda a, b: np.abs(np.asarray(a) - b)
  return max(
    apart(logits, GOLDEN["logits_BTV"]).max(),
    apart(written, GOLDEN["hidden_LBTD"]).max(),
    apart(source, GOLDEN["source_LBSD"])[:, real].max(),
  )


def write(folder, change=None, **config):
  said = GOLDEN["config"] | config
  return tiny.write(folder, said, GOLDEN["tensors"], change=change)


def test_logits_and_hidden_states_are_those_of_transformers(tmp_path):
  folder = write(tmp_path / "t5")
  with families_test.float64():
    assert largest(folder, "float64") < 1e-9
  assert largest(folder, "float32") < 2e-5


def test_it_goes_on_as_transformers_does(tmp_path):
  shape, variables = read(write(tmp_path / "t5"), "float32")
  model = model_lib.of_shape(shape)
  decode = jax.jit(model.decode)
  ids = GOLDEN["source_BS"][:1].astype(np.int32)
  place = np.arange(ids.shape[1], dtype=np.int32)[None]
  cache = model.open_cache(variables, 1, 24)
  variables, said = model.ready(variables), []
  logits, cache = decode(variables, ids, place, np.ones_like(ids), cache)
  for i in range(20):
    said.append(int(logits[0].argmax()))
    token = np.array([[said[-1]]], np.int32)
    at = np.array([[i]], np.int32)
    logits, cache = decode(variables, token, at, np.ones_like(token), cache)
  assert said == GOLDEN["greedy_T"].tolist()


def _other_gate(name, x):
  swapped = {"wi_0": "wi_1", "wi_1": "wi_0"}
  for old, new in swapped.items():
    if f".{old}." in name:
      return tiny.weight(name.replace(old, new), x.shape)
  return x


def _other_attention(name, x):
  return tiny.weight(name.replace("1.EncDec", "0.Self"), x.shape)


@pytest.mark.parametrize("change", [_other_gate, _other_attention])
def test_mutants_are_caught(change, tmp_path):
  folder = write(tmp_path / "t5", change)
  with families_test.float64():
    assert largest(folder, "float64") > 1e-3


REFUSED = [
  ({"feed_forward_proj": "relu"}, "feed_forward_proj='relu'"),
  ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
  ({"num_decoder_layers": 3}, "num_decoder_layers=3"),
]


@pytest.mark.parametrize("config,said", REFUSED)
def test_what_it_cannot_be(config, said, tmp_path):
  folder = write(tmp_path / "t5", **config)
  with pytest.raises(ValueError, match=said):
    importing.model(f"hf:{folder}", EncoderDecoderConfig())
  with pytest.raises(ValueError, match="encoder-decoder, and --model is a"):
    importing.model(f"hf:{write(tmp_path / 'plain')}", TransformerConfig())
