"""T5 v1.0 and v1.1, and BART: read from a folder, they are transformers'.

The stored numbers are of `tests/goldens/encoder_decoders.py`.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
import tokenizers

from llm_jax import exporting, importing
from llm_jax import model as model_lib
from llm_jax.data import sides
from llm_jax.generation import decode
from llm_jax.interop import families
from llm_jax.models import blocks
from llm_jax.models.attention import Attention
from llm_jax.models.config import TransformerConfig
from llm_jax.models.encoder_decoder import EncoderDecoder
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.tokenizers import store
from tests.interop import families_test, tiny

EVERY = pytest.mark.parametrize("name", tiny.ENCODER_DECODERS)


def read(folder, dtype="float64"):
  return families_test.read(folder, dtype, EncoderDecoderConfig)


@functools.cache
def runner(shape):
  """(params, rows) -> logits, and hidden states of both stacks."""
  model = EncoderDecoder(shape)

  @jax.jit
  def run(params, rows):
    variables, written, source = {"params": params}, [], []
    seen = (rows, None, written, source)
    last_BTD, _ = model.apply(variables, *seen, method="read")
    logits_BTV = model.apply(variables, last_BTD, method="logits")
    return logits_BTV, jnp.stack([*written[:-1], last_BTD]), jnp.stack(source)

  return run


def apart(name, shape, params, runner=runner):
  """The largest difference of logits and of hidden states."""
  golden = tiny.golden(name)
  real = golden["mask_BS"].astype(bool)
  rows = {
    "tokens_BT": golden["ids_BT"],
    "source_BS": golden["source_BS"],
    "source_segment_BS": golden["mask_BS"].astype(np.int32),
  }
  logits, written, source = map(np.asarray, runner(shape)(params, rows))
  return max(
    np.abs(logits - golden["logits_BTV"]).max(),
    np.abs(written - golden["hidden_LBTD"]).max(),
    np.abs(source - golden["source_LBSD"])[:, real].max(),
  )


def write(name, folder, change=None, **config):
  golden = tiny.golden(name)
  said = golden["config"] | config
  return tiny.write(folder, said, golden["tensors"], change=change)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """Name -> shape and params of a golden in float32."""
  home = tmp_path_factory.mktemp("base")
  return functools.cache(lambda name: read(write(name, home / name), "float32"))


@EVERY
def test_hidden_states_and_logits_are_those_of_transformers(
  name, base, tmp_path
):
  """Sources with padding on either side among them."""
  with families_test.float64():
    assert apart(name, *read(write(name, tmp_path / name))) < 1e-9
  assert apart(name, *base(name)) < 2e-5


def drawn(shape, params, source_BS, forced=()):
  """20 likeliest tokens, from a cache; `forced` are taken before others."""
  model, variables = model_lib.of_shape(shape), {"params": params}
  step = jax.jit(model.decode)
  # Padding before it, which changes nothing.
  ids = np.pad(source_BS, ((0, 0), (3, 0))).astype(np.int32)
  place = np.arange(-3, source_BS.shape[1], dtype=np.int32)[None]
  cache = model.open_cache(variables, 1, 24)
  variables, said = model.ready(variables), []
  real = (place >= 0).astype(np.int32)
  logits, cache = step(variables, ids, np.maximum(place, 0), real, cache)
  for i in range(20):
    said.append(forced[i] if i < len(forced) else int(logits[0].argmax()))
    token = np.array([[said[-1]]], np.int32)
    at = np.array([[i]], np.int32)
    logits, cache = step(variables, token, at, np.ones_like(token), cache)
  return said


@EVERY
def test_it_goes_on_as_transformers_does(name, base):
  golden = tiny.golden(name)
  said = drawn(*base(name), golden["source_BS"][:1])
  assert said == golden["greedy_T"].tolist()


def test_what_it_writes_begins_as_it_must(base):
  """As transformers' forced_bos_token_id: the first is given, no other is."""
  source_BS, (shape, params) = (
    tiny.golden("bart")["source_BS"][:1],
    base("bart"),
  )
  plain = drawn(shape, params, source_BS)
  first = (plain[0] + 1) % 48
  want = drawn(shape, params, source_BS, forced=(first,))
  forced = dataclasses.replace(shape, first_id=first)
  assert drawn(forced, params, source_BS) == want != plain


def test_a_bare_model_and_older_files_are_read(base, tmp_path):
  """Names without a prefix, no bias of logits, the table thrice, a version."""
  _, want = base("bart")
  tensors = load_file(write("bart", tmp_path / "a") / "model.safetensors")
  del tensors["final_logits_bias"]
  bare = {n.removeprefix("model."): x for n, x in tensors.items()}
  for stack in ("encoder", "decoder"):
    bare[f"{stack}.embed_tokens.weight"] = bare["shared.weight"].copy()
  bare["encoder.version"] = np.zeros(1)
  folder = write("bart", tmp_path / "b", architectures=["BartModel"])
  save_file(bare, folder / "model.safetensors")
  shape, found = read(folder, "float32")
  assert shape.tied and not shape.head_bias
  want = {name: x for name, x in want.items() if name != "head_bias"}
  jax.tree.map(np.testing.assert_array_equal, found, want)
  bare["decoder.embed_tokens.weight"] += 1
  save_file(bare, folder / "model.safetensors")
  with pytest.raises(ValueError, match=r"decoder\.embed_tokens\.weight is a"):
    read(folder, "float32")


def _named(*swapped):
  """Tensors that are drawn as those of another name, where shapes allow it."""

  def change(name, x):
    for old, new in swapped:
      if old in name:
        return tiny.weight(name.replace(old, new), x.shape)
    return x

  return change


def _without(*parts):
  return lambda name, x: 0 * x if all(part in name for part in parts) else x


# Name -> (which model, what is done to its tensors).
TENSORS = {
  "gates exchanged": ("t5", _named((".wi_0.", ".wi_1."), (".wi_1.", ".wi_0."))),
  "attention for cross": ("t5", _named(("1.EncDec", "0.Self"))),
  "stacks exchanged": (
    "bart",
    _named(
      ("encoder.layers.0.self", "decoder.layers.0.self"),
      ("decoder.layers.0.self", "encoder.layers.0.self"),
    ),
  ),
  "no biases of cross": ("bart", _without("encoder_attn.", "bias")),
  "no bias of logits": ("bart", _without("final_logits_bias")),
}


@pytest.mark.parametrize("mutant", TENSORS)
def test_tensors_that_are_others_are_caught(mutant, tmp_path):
  name, change = TENSORS[mutant]
  folder = write(name, tmp_path / name, change)
  assert apart(name, *read(folder, "float32")) > 1e-3


SETTINGS = {
  "no offset": ("bart", {"position_offset": 0, "max_length": 34}),
  "norm before": ("bart", {"norm_at": "input"}),
  "no scale of embeddings": ("bart", {"embed_scale": False}),
  "no scale of logits": ("t5_first", {"head_scale": False}),
  "a scale of the table": ("t5_tied", {"head_scale": True}),
  "a scale of logits": ("t5", {"head_scale": True}),
  "scaled attention": ("t5_first", {"attention_scale": None}),
}


@pytest.mark.parametrize("mutant", SETTINGS)
def test_settings_that_are_others_are_caught(mutant, base):
  name, settings = SETTINGS[mutant]
  shape, params = base(name)
  shape = dataclasses.replace(shape, **settings)
  if shape.norm_at == "input":  # which has norms more, that change nothing
    last = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    encoder = params["encoder"] | {"final_norm": last}
    params = params | {"final_norm": last, "encoder": encoder}
  assert apart(name, shape, params) > 1e-4


def test_distances_that_one_layer_knows_are_caught(base, monkeypatch):
  """T5's layers share what is added to their distances."""

  class First(Attention):
    def __call__(self, x_BTD, context, layer, cache):
      bias = jnp.where(layer == 0, context.bias_BNTS, 0)
      context = context._replace(bias_BNTS=bias)
      return super().__call__(x_BTD, context, layer, cache)

  monkeypatch.setattr(blocks, "Attention", First)
  assert apart("t5", *base("t5"), runner.__wrapped__) > 1e-3


REFUSED = [
  ("t5", {"feed_forward_proj": "gelu"}, "feed_forward_proj='gelu'"),
  ("t5", {"scale_decoder_outputs": True}, "scale_decoder_outputs=True"),
  ("t5", {"num_decoder_layers": 3}, r"block\.2\.\S+ is missing"),
  ("bart", {"normalize_before": True}, "normalize_before=True"),
  ("bart", {"activation_function": "tanh"}, "activation_function='tanh'"),
  ("bart", {"encoder_ffn_dim": 24}, r"fc1\.\S+ is \[20.*config.json \[24"),
]


@pytest.mark.parametrize("name,config,said", REFUSED)
def test_what_it_cannot_be(name, config, said, tmp_path):
  folder = write(name, tmp_path / name, **config)
  with pytest.raises(ValueError, match=said):
    read(folder, "float32")
  with pytest.raises(ValueError, match="encoder-decoder, and --model is of k"):
    importing.model(
      f"hf:{write(name, tmp_path / 'plain')}", TransformerConfig()
    )


@pytest.mark.parametrize("around", ["$A </s>", "<s> $A </s>"])  # T5's, BART's
def test_a_prompt_is_a_source_as_its_tokenizer_makes_one(around, tmp_path):
  tiny.tokenizer(tmp_path, single=around)
  ours = store.theirs(tmp_path, {})
  library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  for text in ("", "to be"):
    framed = decode.framed(ours.encode(text), ours, apart=True)
    assert framed == library.encode(text).ids
    assert [*sides.begins(ours), *ours.encode(text), ours.eos_id] == framed
  assert decode.framed(framed, ours, apart=True) == framed


_BART_LARGE_CNN = {
  "_num_labels": 3,
  "activation_dropout": 0.0,
  "activation_function": "gelu",
  "add_final_layer_norm": False,
  "attention_dropout": 0.0,
  "classif_dropout": 0.0,
  "d_model": 1024,
  "decoder_attention_heads": 16,
  "decoder_layerdrop": 0.0,
  "decoder_start_token_id": 2,
  "dropout": 0.1,
  "early_stopping": True,
  "force_bos_token_to_be_generated": True,
  "forced_eos_token_id": 2,
  "init_std": 0.02,
  "is_encoder_decoder": True,
  "length_penalty": 2.0,
  "max_length": 142,
  "max_position_embeddings": 1024,
  "no_repeat_ngram_size": 3,
  "normalize_before": False,
  "num_beams": 4,
  "num_hidden_layers": 12,
  "prefix": " ",
  "scale_embedding": False,
  "task_specific_params": {"summarization": {"num_beams": 4}},
}
_T5_SMALL = {
  "d_ff": 2048,
  "d_kv": 64,
  "d_model": 512,
  "decoder_start_token_id": 0,
  "dropout_rate": 0.1,
  "initializer_factor": 1.0,
  "is_encoder_decoder": True,
  "layer_norm_epsilon": 1e-06,
  "n_positions": 512,
  "num_heads": 8,
  "num_layers": 6,
  "output_past": True,
  "relative_attention_num_buckets": 32,
}
_FLAN_T5_BASE = _T5_SMALL | {
  "d_model": 768,
  "feed_forward_proj": "gated-gelu",
  "num_decoder_layers": 12,
  "num_layers": 12,
  "tie_word_embeddings": False,
}
# As transformers 5 writes it again.
_FLAN_AGAIN = _FLAN_T5_BASE | {
  "dense_act_fn": "gelu_new",
  "is_gated_act": True,
  "scale_decoder_outputs": False,
  "tie_word_embeddings": True,
}
_APART = {"activation": "geglu", "tied": False, "head_scale": False}
PUBLISHED = {
  "bart-large-cnn": (
    "BartForConditionalGeneration",
    _BART_LARGE_CNN,
    {"first_id": 0, "start_id": 2, "head_bias": True, "max_length": 1024},
  ),
  "bart-base": (
    "BartModel",
    _BART_LARGE_CNN | {"force_bos_token_to_be_generated": False},
    {"first_id": -1, "start_id": 2, "head_bias": False, "tied": True},
  ),
  "bart-large-mnli": (
    "BartForSequenceClassification",
    _BART_LARGE_CNN
    | {
      "force_bos_token_to_be_generated": False,
      "id2label": {"0": "contradiction", "1": "neutral", "2": "entailment"},
    },
    {"outputs": 3, "output_bias": True, "output_dense": "tanh", "tied": True},
  ),
  "t5-small": (
    "T5ForConditionalGeneration",
    _T5_SMALL,
    {"activation": "relu", "tied": True, "head_scale": True, "num_layers": 6},
  ),
  "flan-t5-base": ("T5ForConditionalGeneration", _FLAN_T5_BASE, _APART),
  "flan, again": ("T5ForConditionalGeneration", _FLAN_AGAIN, _APART),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_words_are_read_and_written(name):
  architecture, config, want = PUBLISHED[name]
  stored = ["lm_head.weight"] if "flan" in name else []

  def settings(keys):
    folder = types.SimpleNamespace(
      architecture=architecture,
      given="x",
      config=keys,
      tensors=lambda: dict.fromkeys(stored),
    )
    return families.settings(folder)

  found = settings({"architectures": [architecture], **config})
  assert {key: found[key] for key in want} == want
  shape = importing._as_settings(found, "x")
  _, said = exporting.described(exporting.settings_of(shape))
  assert architecture in said["architectures"]
  assert importing._as_settings(settings(said), "x") == shape
