"""What `plan` says a run costs is what the run's own trees cost."""

import dataclasses
import math

import jax
import pytest

from llm_jax import model as model_lib
from llm_jax import planning, state_plan
from llm_jax.data.instructions import Instructions
from llm_jax.data.preferences import Preferences
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment, Ptx
from llm_jax.generation.rollouts import Rollouts
from llm_jax.models import presets, sizing
from llm_jax.models.encoder_decoder_config import EncoderDecoderConfig
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.ppo import PPO
from llm_jax.peft.lora import LoRA
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from llm_jax.training import optimizers
from tests import command, small

PRESETS = [
  "tiny",
  "nano_shakespeare",
  "gpt2_124m",
  "llama3_1b",
  "llama3_8b",
  "llama3_70b",
  "qwen3_0_6b",
  "bert_base",
]
CUT = MeshShape(data=2, fsdp=2, tensor=2)


def described(experiment, kind="cpu"):
  """(rows by name, the whole answer, the abstract state)."""
  mesh = mesh_lib.make(experiment.mesh)
  model = model_lib.of_shape(model_lib.expected_shape(experiment))
  abstract = state_plan.make(experiment, model, mesh).abstract
  found = planning.describe(
    experiment, model.shape, abstract, dict(mesh.shape), kind
  )
  return dict(found["rows"]), found, abstract


def preset(name, **changes):
  shape = getattr(presets, name)()
  shape = dataclasses.replace(shape, vocab_size=shape.vocab_size or 65)
  return dataclasses.replace(Experiment(), model=shape, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_and_bytes_are_the_real_tree_s(name):
  """Adam keeps two numbers a parameter, and one count."""
  e = preset(name, mesh=MeshShape(data=1))
  rows, _, abstract = described(e)
  total = sizing.parameters(e.model).total
  assert rows["parameters"] == f"{total:,}"
  assert planning.bytes_of(abstract.trainable) == 4 * total
  extra = planning.bytes_of(abstract.opt_state) - 8 * total
  assert 0 <= extra <= 16  # counts of steps
  assert rows["bytes a device: parameters"] == planning.human(4 * total)
  flops = sizing.flops_per_token(e.model, e.data.length)
  assert rows["flops a token, full attention"] == f"{flops.full:,.0f}"
  assert rows["flops a token, causal attention"] == f"{flops.causal:,.0f}"


def test_what_trains_is_counted_apart():
  """LoRA on one map: L (D R + R N H), beside every parameter of the base."""
  whole = preset("tiny")
  shape = whole.model
  total = sizing.parameters(shape).total
  assert described(whole)[0]["  that train"] == f"{total:,} (100.00%)"
  peft = LoRA(rank=2, targets=("attention/query",))
  rows, _, _ = described(dataclasses.replace(whole, peft=peft))
  size = shape.num_layers * 2 * (shape.embed_dim + shape.num_heads * shape.H)
  assert rows["parameters"] == f"{total:,}"
  assert rows["  that train"] == f"{size:,} ({size / total:.2%})"
  assert size < total / 100  # the mutant, all that there is, is far from it


def on_device(tree, device):
  """Bytes that a device really holds."""
  return sum(
    shard.data.nbytes
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
    if shard.device == device
  )


@pytest.mark.parametrize("optimizer", [optimizers.AdamW, optimizers.Adafactor])
def test_bytes_a_device_are_those_it_holds(optimizer):
  e = dataclasses.replace(
    Experiment(),
    model=small.CONFIG,
    optimizer=optimizer(),
    mesh=CUT,
    average=0.9,
  )
  mesh = mesh_lib.make(e.mesh)
  model = model_lib.of_shape(e.model)
  plan = state_plan.make(e, model, mesh)
  state = jax.tree.map(
    lambda x: jax.device_put(jax.numpy.zeros(x.shape, x.dtype), x.sharding),
    (plan.abstract.trainable, plan.abstract.opt_state, plan.abstract.average),
  )
  rows, _, _ = described(e)
  for device in jax.devices():
    for name, tree in zip(
      ("parameters", "optimizer", "moving average"), state, strict=True
    ):
      size = on_device(tree, device)
      assert size and rows[f"bytes a device: {name}"] == planning.human(size)


def test_mutant_counting_whole_arrays_is_caught(monkeypatch):
  whole = lambda tree: sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
  monkeypatch.setattr(planning, "bytes_of", whole)
  with pytest.raises(AssertionError):
    test_bytes_a_device_are_those_it_holds(optimizers.AdamW)


def test_more_devices_and_more_microbatches_cost_less():
  one = described(preset("llama3_8b", mesh=MeshShape(data=1)))[1]["bytes"]
  cut = preset("llama3_8b", mesh=MeshShape(data=1, fsdp=8))
  eight = described(cut)[1]["bytes"]
  assert eight < one / 4
  fewer = dataclasses.replace(cut, microbatches=4)
  rows, more = described(cut)[0], described(fewer)[0]
  name = "bytes a device: activations"
  assert rows[name] != more[name]
  assert described(fewer)[1]["bytes"] != eight


def test_stages_hold_fewer_layers_and_wait():
  """Four stages of eight parts: 3 of 11 turns are bubbles."""
  one, four = (
    preset("llama3_8b", mesh=MeshShape(data=1, stage=n), batch_size=8)
    for n in (1, 4)
  )
  at = lambda e, **kw: described(
    dataclasses.replace(e, model=dataclasses.replace(e.model, **kw))
  )
  rows, found, _ = at(four, stage_microbatches=8)
  name = "time that stages wait"
  assert rows[name] == f"{3 / 11:.1%}" and name not in described(one)[0]
  assert found["bytes"] < 0.4 * described(one)[1]["bytes"]
  kept = at(four, stage_microbatches=8, stage_remat=True)[1]
  assert kept["bytes"] < found["bytes"]


def test_what_does_not_fit_is_said_with_exit_code_3(monkeypatch):
  kind = "TPU v5 lite"
  assert described(preset("tiny"), kind)[1]["limit"] == 15.75 * 2**30
  _, found, _ = described(preset("llama3_70b"), kind)
  assert found["bytes"] > found["limit"]
  monkeypatch.setitem(planning.MEMORY, jax.devices()[0].device_kind, 2.0**30)
  said = command.call("plan", experiment=preset("gpt2_124m"))
  assert said.code == 3 and "does not fit" in said.err
  said = command.call("plan", experiment=preset("tiny"))
  assert said.code == 0 and "does not fit" not in said.err


def test_a_reference_costs_what_trains_and_a_forward(monkeypatch):
  kind = jax.devices()[0].device_kind
  monkeypatch.setitem(planning.PEAK, kind, 1e9)  # so that it takes hours
  e = preset("gpt2_124m", objective=DPO(), mesh=MeshShape(data=1), steps=1000)
  e = dataclasses.replace(e, data=Preferences())

  def rows(**changes):
    changed = dataclasses.replace(e, **changes)
    said = command.call("plan", experiment=changed)
    assert said.code == 0, said.err
    lines = (line.strip().split("  ", 1) for line in said.out.splitlines())
    return {name: value.strip() for name, value in lines}

  each, once = rows(), rows(reference="once")
  memory, reference = "bytes a device: parameters", "bytes a device: reference"
  assert each[memory] == each[reference] == once[memory]
  assert reference not in once
  hours = lambda rows: float(rows["time at 40% MFU"].split()[0])
  assert hours(each) == pytest.approx(hours(once) * 4 / 3, rel=1e-3)
  under = rows(peft=LoRA(rank=2))
  assert under[reference] == "0.0 B"  # the base is held once


def test_what_draws_keeps_a_cache_and_a_critic_in_its_step():
  """Of 2 bytes a key and value; drawing and learning take turns."""
  drawn = Rollouts(batch=4096, max_prompt=100, max_new_tokens=28)
  e = preset("gpt2_124m", mesh=MeshShape(data=2), rollouts=drawn)
  shape = dataclasses.replace(e.model, outputs=1)
  e = dataclasses.replace(e, model=shape, data=Instructions())
  asked = lambda objective, **changes: described(
    dataclasses.replace(e, objective=objective, **changes)
  )
  name = "bytes a device: {}".format
  rows, found, _ = asked(PPO())
  cache = 4096 * 128 * (shape.num_layers * 2 * shape.K * shape.H * 2 + 8) // 2
  # And how many slots are used.
  assert rows[name("cache of what is drawn")] == planning.human(cache + 2)
  shared, less, _ = asked(PPO(critic="shared"))
  activations = sizing.activation_bytes(shape, 16 * e.data.length)
  assert shared[name("activations")] == planning.human(activations)
  assert rows[name("activations")] == planning.human(2 * activations)
  # 12 GiB of cache are more than the step has; with a small one they are not.
  few = dataclasses.replace(drawn, batch=32)
  _, step, abstract = asked(PPO(critic="shared"), rollouts=few)
  rest = sum(
    planning.bytes_of(x) for x in (abstract.trainable, abstract.opt_state)
  )
  assert less["bytes"] == rest + cache + 2
  learning = step["bytes"] - rest
  assert planning.bytes_of(abstract.trainable) + activations < learning < cache
  plain, nothing, _ = asked(Causal())
  assert name("cache of what is drawn") not in plain
  assert nothing["bytes"] == step["bytes"]


def test_time_by_the_known_peak():
  e = preset("gpt2_124m", mesh=MeshShape(data=8), steps=1000)
  rows, _, _ = described(e, "NVIDIA H100 80GB HBM3")
  flops = sizing.flops_per_token(e.model, e.data.length).full
  seconds = flops * 32 * 256 * 1000 / (0.4 * 8 * 989.5e12)
  assert rows["time at 40% MFU"] == f"{seconds / 3600:.2f} h"
  assert rows["tokens in all"] == f"{32 * 256 * 1000:,}"
  assert described(e, "abacus")[0]["time at 40% MFU"] == "unknown"


def test_sizes_for_people():
  assert planning.human(0) == "0.0 B"
  assert planning.human(1536) == "1.5 KiB"
  assert planning.human(2**30) == "1.0 GiB"
  assert planning.human(3 * 2**50) == "3072.0 TiB"


def test_what_is_modelled_beside_has_activations_of_its_own():
  """Both are differentiated together; what weighs nothing costs nothing."""
  e = preset("gpt2_124m", mesh=MeshShape(data=2), microbatches=4)
  shape = dataclasses.replace(e.model, outputs=1)
  e = dataclasses.replace(
    e, model=shape, data=Instructions(), objective=PPO(critic="shared")
  )
  beside = lambda **more: dataclasses.replace(
    e, ptx=(Ptx(Text(length=64), batch_size=16, **more),)
  )
  name = "bytes a device: activations"
  alone, both = (described(its)[0] for its in (e, beside()))
  size = lambda rows, length: sizing.activation_bytes(shape, rows * length)
  own = size(e.batch_size // 8, e.data.length)
  assert alone[name] == planning.human(own)
  assert both[name] == planning.human(own + size(2, 64))
  assert both["tokens beside"] == "1,024"
  assert described(beside(weight=0.0))[0] == alone


def test_a_source_costs_by_its_own_length():
  """Of a batch: each matmul of what it multiplies, each query of its keys."""
  c = EncoderDecoderConfig(
    num_layers=2,
    embed_dim=16,
    mlp_dim=24,
    num_heads=4,
    num_kv_heads=2,
    vocab_size=32,
    max_length=64,
  )
  T, S, D, L = 8, 20, 16, 2
  wide, narrow = 4 * 4, 2 * 4  # of queries, and of keys
  attention = 2 * D * wide + 2 * D * narrow
  mlp = 3 * D * 24
  write = L * (attention + mlp + 2 * D * wide) + 32 * D
  read = L * (attention + mlp + 2 * D * narrow)
  work = 6 * (T * write + S * read)
  work += 12 * L * wide * (T * T + S * S + T * S)
  found = sizing.flops_per_token(c, T, S)
  assert found.full * T == pytest.approx(work, rel=1e-12)
  kept = lambda *counts: sizing.activation_bytes(c, *counts)
  assert kept(T) == kept(T, T) < kept(T, S)
  # In proportion, as no matrix of T x S is kept.
  assert kept(T, 3 * T) - kept(T, 2 * T) == kept(T, 2 * T) - kept(T)
  alike = sizing.flops_per_token(c, T)
  assert alike == sizing.flops_per_token(c, T, T)
  assert alike.full < 0.7 * found.full  # the mutant: a source as long as T
