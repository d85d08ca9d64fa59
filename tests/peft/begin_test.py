"""What each method begins as, where, and how much of a model it moves."""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax import model as model_lib
from llm_jax.peft.bottlenecks import Bottlenecks
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.merge import merge
from llm_jax.peft.prompts import Prompt
from llm_jax.peft.select import BitFit, Select
from llm_jax.peft.sites import Base
from tests import small

IDS = [3, 1, 2]  # of any text


def base(config=small.CONFIG):
  boxed = jax.eval_shape(model_lib.of_shape(config).init, jax.random.key(0))[
    "params"
  ]
  _, variables = small.build(config)
  key = jax.random.key(7)
  return Base(variables["params"], axes.suffixes(boxed), key, lambda text: IDS)


def added(method, config=small.CONFIG):
  """Path -> array of what a method adds."""
  found = axes.unbox(method.add(base(config)))
  return {path: np.asarray(x) for path, x in trees.paths(found)}


@pytest.mark.parametrize(("stabilised", "s"), [(False, 2.0), (True, 4.0)])
def test_low_rank_maps_are_drawn_as_the_library_does(stabilised, s):
  """Uniform within 1 / sqrt(inputs), each map for itself; b is zero."""
  found = added(LoRA(rank=4, alpha=8.0, stabilised=stabilised))
  c = small.CONFIG
  inputs = {"query": c.embed_dim, "out": c.num_heads * c.H, "down": c.mlp_dim}
  a = {p.split("/")[-2]: x for p, x in found.items() if p.endswith("/a")}
  for name, size in inputs.items():
    most = np.abs(a[name]).max() * size**0.5
    assert 0.9 < most <= 1, name
  assert a["key"].shape == a["value"].shape
  assert np.abs(a["key"] - a["value"]).max() > 0.01  # the mutant: one draw
  for path, x in found.items():
    if path.endswith(("/b", "/scale")):
      assert (x == (s if path.endswith("/scale") else 0)).all()


def test_virtual_tokens_are_what_they_are_told_to_be():
  table_WE = np.asarray(base().params["embedding"])
  for count in (2, 7):  # cut, or repeated
    rows = added(Prompt(tokens=count))["prompt"]
    np.testing.assert_array_equal(
      rows, table_WE[[IDS[i % 3] for i in range(count)]]
    )
  rows = added(Prompt(tokens=len(table_WE), init="vocabulary"))["prompt"]
  assert not np.array_equal(rows, table_WE)
  assert sorted(rows.tolist()) == sorted(table_WE.tolist())  # each once
  rows = added(Prompt(tokens=20, init="random"))["prompt"]
  assert -0.5 <= rows.min() < -0.4 and 0.4 < rows.max() < 0.5


def test_bottlenecks_stand_where_their_papers_say():
  places = {
    name: {p.split("/")[1] for p in added(Bottlenecks(placement=name))}
    for name in ("houlsby", "pfeiffer")
  }
  assert places == {
    "houlsby": {"attention_adapter", "mlp_adapter"},
    "pfeiffer": {"mlp_adapter"},
  }


def test_as_much_trains_as_is_told():
  """A mutant that trains more would learn as well, and be no such method."""
  params = {"params": base(small.SHAPES["gpt2"]).params}
  every = {p: x.shape for p, x in trees.paths(params)}
  last = Select(patterns=("blocks/*", "final_norm/*"), last=1)
  moves, stays = trees.split(params, last.is_trainable)
  moves, stays = (dict(trees.paths(t)) for t in (moves, stays))
  for path, (L, *shape) in every.items():
    if path.startswith("params/blocks/"):
      assert moves[path].shape == (1, *shape)
      assert stays[path].shape == (L - 1, *shape)
    else:
      assert (path in moves) == path.startswith("params/final_norm/")
  biases = [p for p in every if BitFit().is_trainable(p)]
  assert biases == [p for p in every if p.endswith("/bias")]
  some = [p for p in every if BitFit(targets=("mlp/*",)).is_trainable(p)]
  assert some == [f"params/blocks/mlp/{n}/bias" for n in ("down", "up")]


def test_scales_of_maps_with_biases_are_merged():
  """Also of inputs of several dims, and outputs that have a bias."""
  with jax.enable_x64(True):
    config = dataclasses.replace(small.SHAPES["gpt2"], dtype="float64")
    its, r = base(config), np.random.default_rng(0)
    method = IA3(
      outputs=("attention/key", "mlp/*"), inputs=("attention/out", "mlp/down")
    )
    adapters = jax.tree.map(
      lambda x: 1 + 0.3 * r.normal(size=x.shape), axes.unbox(method.add(its))
    )
    out = adapters["blocks"]["attention"]["out"]["input_scale"]
    assert out.shape == (config.num_layers, config.num_heads, config.H)
    score, batch = model_lib.of_shape(config).score, small.causal_batch()
    run = jax.jit(lambda variables: score(variables, batch).logp_BT)
    want = run({"params": its.params, "adapters": adapters})
    merged = merge(its.params, adapters, its.suffixes)
    np.testing.assert_allclose(
      run({"params": merged}), want, rtol=0, atol=1e-10
    )
    # The mutant: biases as they were.
    wrong = jax.tree_util.tree_map_with_path(
      lambda path, new, old: (
        old if trees.path_string(path).endswith("bias") else new
      ),
      merged,
      its.params,
    )
    assert np.abs(run({"params": wrong}) - want).max() > 1e-3
