"""Adapters together and by rows do what they do alone, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import axes
from llm_jax import model as model_lib
from llm_jax.peft import stack
from llm_jax.peft.bottlenecks import Bottlenecks
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.merge import merge
from llm_jax.peft.prompts import Prefix, Prompt
from llm_jax.peft.sites import Base
from tests import small
from tests.peft import furniture

METHODS = {
  "lora": LoRA(rank=2),
  "wide": LoRA(
    rank=4, alpha=3.0, targets=("mlp/*", "attention/out"), special_tokens=6
  ),
  "special": LoRA(rank=3, special_tokens=4),
  "ia3": IA3(),
  "bottlenecks": Bottlenecks(width=3),
  "prompt": Prompt(tokens=3),
  "prefix": Prefix(tokens=3),
  "dora": LoRA(rank=2, dora=True),
}
BATCH = small.causal_batch()


def base():
  config = dataclasses.replace(small.CONFIG, dtype="float64")
  model = model_lib.of_shape(config)
  _, variables = small.build(config)
  boxed = jax.eval_shape(model.init, jax.random.key(0))["params"]
  return model, variables["params"], axes.suffixes(boxed)


def adapter(name, params, suffixes, seed=0):
  @jax.jit
  def add(params):
    key = jax.random.key(seed)
    base = Base(params, suffixes, key, furniture.encode)
    return axes.unbox(METHODS[name].add(base))

  return furniture.drawn(add(params), seed)


def scorer(model, params):
  score = jax.jit(lambda a: model.score(a, BATCH).logp_BT)
  return lambda adapters: np.asarray(
    score({"params": params, "adapters": adapters})
  )


def test_stacked_lora_is_merged_twice():
  """x W + s1 x a1 b1 + s2 x a2 b2, whatever the ranks and the maps."""
  with jax.enable_x64(True):
    model, params, suffixes = base()
    one = adapter("special", params, suffixes, 1)
    two = adapter("wide", params, suffixes, 2)
    got = scorer(model, params)(stack.together([one, two]))
    both = merge(merge(params, one, suffixes), two, suffixes)
    want = scorer(model, both)({})
    np.testing.assert_allclose(got, want, atol=1e-10)
    # The mutant: the second's scale for both.
    wrong = stack.together([one, two])
    unfolded = jnp.concatenate(
      [x["blocks"]["mlp"]["up"]["b"] for x in (one, two)], 1
    )
    wrong["blocks"]["mlp"]["up"]["b"] = unfolded
    assert np.abs(scorer(model, params)(wrong) - want).max() > 1e-3


def test_stacked_ia3_multiplies():
  with jax.enable_x64(True):
    model, params, suffixes = base()
    one, two = (adapter("ia3", params, suffixes, i) for i in (1, 2))
    got = scorer(model, params)(stack.together([one, two]))
    both = merge(merge(params, one, suffixes), two, suffixes)
    np.testing.assert_allclose(got, scorer(model, both)({}), atol=1e-10)


@pytest.mark.parametrize("name", ["bottlenecks", "prompt", "prefix", "dora"])
def test_what_cannot_be_stacked_is_told(name):
  with jax.enable_x64(True):
    _, params, suffixes = base()
    one = adapter(name, params, suffixes)
    with pytest.raises(ValueError, match="cannot be stacked"):
      stack.together([one, one])
    if name == "dora":
      other = adapter("lora", params, suffixes)
      with pytest.raises(ValueError, match="DoRA cannot be stacked"):
        stack.together([one, other])


def reader(model, params, by_row):
  """(adapters, tokens_BT) -> logits of a prompt, then of a token: [2, B, V]."""
  decode = model.decode_rows if by_row else model.decode
  opened = model.open_rows if by_row else model.open_cache

  @jax.jit
  def run(adapters, tokens_BT):
    variables = {"params": params, "adapters": adapters}
    B, T = tokens_BT.shape
    ones = np.ones((B, T), np.int32)
    places = np.arange(T, dtype=np.int32)[None] * ones
    cache = opened(variables, B, 16)
    cut = T - 1
    first, cache = decode(
      variables, tokens_BT[:, :cut], places[:, :cut], ones[:, :cut], cache
    )
    then, _ = decode(
      variables, tokens_BT[:, cut:], places[:, cut:], ones[:, cut:], cache
    )
    return jnp.stack([first, then])

  return lambda *given: np.asarray(run(*given))


MIXES = [("special", "wide", "ia3", "none", "bottlenecks"), ("prompt",) * 2]
MIXES += [("prefix",) * 2, ("dora",) * 2]


@pytest.mark.parametrize("mix", MIXES, ids="+".join)
def test_a_row_is_its_adapter_alone(mix):
  with jax.enable_x64(True):
    model, params, suffixes = base()
    adapters = [
      {} if name == "none" else adapter(name, params, suffixes, i)
      for i, name in enumerate(mix)
    ]
    tokens = BATCH["tokens_BT"][: len(mix), :6]
    by_row, alone = (reader(model, params, b) for b in (True, False))
    got = by_row(stack.rows(adapters), tokens)
    for row, one in enumerate(adapters):
      want = alone(one, tokens[row : row + 1])
      np.testing.assert_allclose(got[:, row], want[:, 0], atol=1e-10)
    # The mutant: the next row's adapter.
    turned = jax.tree.map(
      lambda x: jnp.roll(x, 1, axis=0), stack.rows(adapters)
    )
    wrong = by_row(turned, tokens)
    assert np.abs(wrong - got).max() > 1e-3


def test_rows_that_cannot_be_mixed_are_told():
  with jax.enable_x64(True):
    _, params, suffixes = base()
    one = adapter("prompt", params, suffixes)
    with pytest.raises(ValueError, match="give one at a time"):
      stack.rows([one, {}])
