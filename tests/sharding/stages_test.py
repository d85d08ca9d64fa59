"""Layers in stages never change a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from llm_jax import axes
from llm_jax.models import pipeline, transformer
from llm_jax.models.config import Experts
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.routed import Routed
from llm_jax.ops import splash
from llm_jax.sharding import collectives
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from tests import small
from tests.peft import furniture
from tests.sharding import steps
from tests.sharding.laws_test import difference

CONFIG = dataclasses.replace(steps.CONFIG, num_layers=4)


def packed_batch():
  """Rows of up to three documents, padding behind them."""
  batch, r = small.causal_batch(), np.random.default_rng(1)
  B, T = small.DIMS.B, small.DIMS.T
  segment_BT = np.zeros((B, T), np.int32)
  position_BT = np.zeros((B, T), np.int32)
  for b in range(B):
    ends = [0, *np.sort(r.choice(np.arange(1, T + 1), 3, replace=False))]
    for i, (first, end) in enumerate(zip(ends, ends[1:], strict=False)):
      segment_BT[b, first:end] = i + 1
      position_BT[b, first:end] = np.arange(end - first)
  return batch | {
    "segment_BT": segment_BT,
    "position_BT": position_BT,
    "mask_BT": segment_BT > 0,
  }


@pytest.fixture(scope="module")
def one_device():
  with jax.enable_x64(True):
    return steps.run((1, 1, 1), config=CONFIG, batch=packed_batch())


def of_mesh(microbatches=0, config=CONFIG, step_microbatches=1, **shape):
  config = dataclasses.replace(config, stage_microbatches=microbatches)
  with jax.enable_x64(True):
    return steps.run(
      MeshShape(**({"data": 1} | shape)),
      config=config,
      batch=packed_batch(),
      microbatches=step_microbatches,
    )


@pytest.mark.parametrize(
  ("shape", "more"),
  [
    ({"stage": 2}, {}),
    ({"stage": 4}, {"microbatches": 8}),
    ({"stage": 4}, {"microbatches": 1}),
    ({"data": 2, "stage": 2, "tensor": 2}, {}),
    ({"fsdp": 2, "stage": 4}, {}),
    ({"fsdp": 2, "stage": 2}, {"step_microbatches": 2}),
    ({"context": 2, "stage": 2, "tensor": 2}, {}),
  ],
  ids=str,
)
def test_stages_give_one_devices_loss_and_gradients(shape, more, one_device):
  assert difference(of_mesh(**shape, **more), one_device) < 1e-12


@pytest.mark.parametrize(
  "remat",
  [{"remat": "dots"}, {"remat": "full", "stage_remat": True, "unroll": 0}],
  ids=str,
)
def test_what_is_kept_for_the_backward_pass_changes_nothing(remat, one_device):
  config = dataclasses.replace(CONFIG, **remat)
  assert difference(of_mesh(config=config, stage=2), one_device) < 1e-12


MUTANTS = {
  "another microbatch": ("_which", lambda t, at, m: jnp.clip(t, 0, m - 1)),
  "bubbles": ("_done", lambda turns, at, m: turns[:m]),
  "stages in another order": (
    "_onward",
    lambda p: [(0, p - 1)] + [(s, s - 1) for s in range(2, p)],
  ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name, one_device, monkeypatch):
  monkeypatch.setattr(pipeline, *MUTANTS[name])
  assert difference(of_mesh(stage=4), one_device) > 1e-4


def test_weights_are_where_their_layers_are():
  mesh = mesh_lib.make(MeshShape(data=2, stage=4))
  with jax.set_mesh(mesh):
    _, state, _ = steps.plan(mesh, config=CONFIG)
  blocks = state.trainable["policy"]["params"]["blocks"]
  for x in jax.tree.leaves(blocks):
    assert {len(s.data) for s in x.addressable_shards} == {1}
  # Of the vocabulary each stage has a part, not the last one all of it.
  table = state.trainable["policy"]["params"]["embedding"]
  assert {len(s.data) for s in table.addressable_shards} == {small.DIMS.V // 4}


@pytest.mark.parametrize("shape", [{"stage": 4}, {"tensor": 4}], ids=str)
@pytest.mark.parametrize("mutant", [False, True])
def test_nothing_as_large_as_logits_is_sent(shape, mutant, monkeypatch):
  """The head that is the embedding is cut by the vocabulary, as logits are;
  the mutant leaves to the compiler how."""
  if mutant:
    monkeypatch.setattr(
      transformer.Decoder, "kernel_DV", lambda self: self.embedding_WE.T
    )
  config = dataclasses.replace(CONFIG, num_layers=4, vocab_size=512)
  mesh = mesh_lib.make(MeshShape(**({"data": 1, "fsdp": 2} | shape)))
  with jax.set_mesh(mesh):
    step, state, batch = steps.plan(mesh, config=config)
    text = step.lower(state, batch).compile().as_text()
  sent = collectives.read(text, dict(mesh.shape), [0] * mesh.size)
  logits = small.DIMS.B // 2 * small.DIMS.T * config.vocab_size * 4
  assert (max(its.payload for its in sent) >= logits) == mutant


def toy(weights, x_BTD, shared, layer, i):
  """Says which layer it is, which microbatch, and what it is told of it."""
  noise = jax.random.normal(jax.random.fold_in(shared["key"], i), x_BTD.shape)
  told = shared["told_BT"][..., None]
  y_BTD = jnp.tanh(x_BTD @ weights) + told * (layer + 1) + 0.1 * noise
  return y_BTD, {"sum_B": y_BTD.sum((1, 2)), "layer_B1": told[:, 0] * layer}


@pytest.mark.parametrize(("stages", "parts"), [(2, 2), (4, 2), (2, 4), (8, 1)])
def test_a_pipeline_is_a_naive_loop(stages, parts):
  """Layer by layer, microbatch by microbatch; in each the same draws."""
  r = np.random.default_rng(0)
  mesh = mesh_lib.make(MeshShape(data=1, stage=stages))
  with jax.enable_x64(True), jax.set_mesh(mesh):
    weights, x_BTD = r.normal(size=(8, 5, 5)), r.normal(size=(4, 3, 5))
    shared = {"told_BT": r.normal(size=(4, 3)), "key": jax.random.key(1)}
    run = jax.jit(functools.partial(pipeline.run, toy, microbatches=parts))
    found, told = run(weights, x_BTD, shared)
    want = np.zeros_like(x_BTD)
    want_told = {"sum_B": np.zeros((8, 4)), "layer_B1": np.zeros((8, 4, 1))}
    for i in range(parts):
      y, mine = (
        x_BTD[i::parts],
        {
          "key": shared["key"],
          "told_BT": shared["told_BT"][i::parts],
        },
      )
      for layer in range(8):
        y, its = toy(weights[layer], y, mine, layer, i)
        for name, x in its.items():
          want_told[name][layer, i::parts] = x
      want[i::parts] = y
  np.testing.assert_allclose(found, want, rtol=0, atol=1e-12)
  for name, x in want_told.items():
    np.testing.assert_allclose(told[name], x, rtol=0, atol=1e-12)


def test_experts_and_stages_together():
  """What routing adds to the loss is told by every stage."""
  experts = Experts(num=4, per_token=2)
  config = dataclasses.replace(CONFIG, num_layers=2, experts=experts)
  objective = Routed(Causal(z_loss=1e-2), 0.1, 0.01)
  with jax.enable_x64(True):
    found = [
      steps.run(shape, config=config, batch=packed_batch(), objective=objective)
      for shape in (MeshShape(1), MeshShape(1, stage=2, expert=2))
    ]
  assert found[0]["balance"] > 0
  assert difference(*found) < 1e-12


def test_adapters_on_quantised_layers_in_stages(monkeypatch):
  monkeypatch.setitem(furniture.MESHES, "stages", (1, 2, 1, 1, 1, 2))
  with jax.enable_x64(True):
    want = furniture.trained_on_one_device("nf4", "causal")
    made = furniture.make("nf4", "causal", "stages")
    state = furniture.train(made, furniture.start(made), 2)
  assert difference(furniture.numbers(state.trainable), want) < 1e-12


def test_a_token_at_a_time_needs_no_stages():
  """With a cache, layers go to where the rows are."""
  model_of = functools.partial(small.build, CONFIG)
  tokens_BT = small.causal_batch()["tokens_BT"]
  at_BT = np.broadcast_to(np.arange(small.DIMS.T), tokens_BT.shape)
  ones_BT = np.ones_like(tokens_BT)

  def says(shape):
    mesh = mesh_lib.make(shape)
    with jax.enable_x64(True), jax.set_mesh(mesh):
      model, variables = model_of()
      boxed = jax.eval_shape(model.init, jax.random.key(0), tokens_BT[:1])
      variables = jax.device_put(variables, axes.shardings(boxed, mesh))

      @jax.jit
      def run(variables):
        cache = model.apply(
          variables, len(tokens_BT), small.DIMS.T, method="open_cache"
        )
        for part in (slice(0, 8), slice(8, 9)):
          logits_BV, cache = model.apply(
            variables,
            *(tokens_BT[:, part], at_BT[:, part], ones_BT[:, part]),
            cache,
            method="decode",
          )
        return logits_BV

      return np.asarray(run(variables))

  one, four = says(MeshShape(1)), says(MeshShape(1, stage=4, fsdp=2))
  np.testing.assert_allclose(one, four, rtol=0, atol=1e-12)


def test_dropout_draws_the_same_in_any_number_of_stages():
  config = dataclasses.replace(CONFIG, dropout=0.5)
  two, four = (of_mesh(2, config, stage=n) for n in (2, 4))
  assert difference(two, four) < 1e-12
  assert difference(two, of_mesh(2, stage=2)) > 1e-3


@pytest.mark.parametrize(
  ("given", "says"),
  [
    ((3, 3, 4, 6), "--mesh.stage=3: does not divide --model.num_layers=4"),
    ((2, 4, 4, 6), "--model.stage_microbatches=4: does not divide the 6 rows"),
  ],
)
def test_what_cannot_be_cut_is_told_with_its_flag(given, says):
  with pytest.raises(ValueError) as e:
    pipeline.check(*given)
  assert says in str(e.value) and "\n" not in str(e.value)


def test_the_bubble_is_the_share_of_turns_without_work():
  for p, m in ((1, 1), (2, 2), (4, 8)):
    works = sum(0 <= t - s < m for t in range(m + p - 1) for s in range(p))
    np.testing.assert_allclose(
      pipeline.bubble(p, m), 1 - works / ((m + p - 1) * p)
    )


def test_a_tpus_attention_knows_its_shards_inside_of_stages():
  """Where another axis is cut by hand, jax cannot tell them of this mesh."""
  mesh = mesh_lib.make(MeshShape(data=1, stage=2, context=2))
  kernel = splash.make(2, 512, None, cuts=2, interpret=True)
  found = []

  def inside(x):
    found.append(splash.specs(kernel, "context"))
    return x

  with jax.set_mesh(mesh):
    jax.eval_shape(
      jax.shard_map(inside, in_specs=P(), out_specs=P(), axis_names={"stage"}),
      jnp.zeros(4),
    )
    assert jax.tree.leaves(found[0]) == jax.tree.leaves(
      splash.specs(kernel, "context")
    )
