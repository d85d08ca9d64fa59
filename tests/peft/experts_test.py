"""Adapters and few bits on a mixture of experts."""

import jax
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax.peft import hold
from llm_jax.peft.ia3 import IA3
from llm_jax.peft.lora import LoRA
from llm_jax.peft.merge import merge
from llm_jax.training import muon
from tests import small
from tests.peft import begin_test

CONFIG = small.SHAPES["moe"]
KERNELS = ["blocks/mlp/down", "blocks/mlp/gate", "blocks/mlp/up"]


def test_adapters_go_to_attention_and_merge():
  base = begin_test.base(CONFIG)
  names = [site.name for site in base.sites(("*",), "--peft.targets")]
  assert names == [f"attention/{n}" for n in ("key", "out", "query", "value")]
  adapters = axes.unbox(LoRA(rank=2).add(base))
  drawn = jax.tree.map(lambda x: x + 0.1, adapters)
  merged = merge(base.params, drawn, base.suffixes)
  moved = {
    path
    for path, x in trees.paths(base.params)
    if np.abs(x - trees.get(merged, path)).max() > 0
  }
  assert moved == {f"blocks/{name}/kernel" for name in names}


@pytest.mark.parametrize("method", [LoRA(targets=("mlp/up",)), IA3()])
def test_adapters_of_experts_are_refused_in_a_line(method):
  with pytest.raises(ValueError, match="matches none of attention/key") as e:
    method.add(begin_test.base(CONFIG))
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(("held", "most"), [("int8", 0.01), ("nf4", 0.2)])
def test_experts_are_held_in_few_bits_each_by_itself(held, most):
  """One expert's size is nothing to another's scales; the router stays."""
  base = begin_test.base(CONFIG)
  for i, path in enumerate(KERNELS):
    kernel = trees.get(base.params, f"{path}/kernel")
    loud = kernel.at[:, 1].multiply(100.0 + i)
    trees.put(base.params, f"{path}/kernel", loud)
  kept, codes = hold.hold(base.params, base.suffixes, lambda path: False, held)
  there = hold.seen(base.params, kept, codes)
  for path in KERNELS:
    assert trees.get(kept, f"{path}/kernel") is None
    want = np.asarray(trees.get(base.params, f"{path}/kernel"))
    off = np.abs(trees.get(there, f"{path}/kernel") - want)
    for m in range(4):
      assert off[:, m].max() < most * np.abs(want[:, m]).max()
  assert trees.get(kept, "blocks/mlp/router") is not None


@pytest.mark.parametrize("suffix", ["LMDF", "LMFD"])
def test_dims_of_an_experts_kernel(suffix):
  assert axes.num_stacked(suffix) == 2 and axes.num_inputs(suffix) == 1


def test_muon_takes_each_experts_matrix_alone():
  x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)

  def moved(suffix, x):
    made = muon.orthogonalise({"w": suffix})
    return made.update({"w": x}, made.init({"w": x}))[0]["w"]

  found = moved("LMDF", x)
  alone = moved("LDF", x.reshape(6, 4, 5)).reshape(x.shape)
  np.testing.assert_allclose(found, alone, rtol=1e-6)
  # The mutant: all experts of a layer as one tall matrix.
  tall = moved("LDF", x.reshape(2, 12, 5)).reshape(x.shape)
  assert np.abs(tall - alone).max() > 0.05
