"""What a run needs of machines that are not here."""

import dataclasses
import importlib.util
import types

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import pytest

from llm_jax import planning, roofline, searching, topology_plan
from llm_jax.data.instructions import Instructions
from llm_jax.data.preferences import Preferences
from llm_jax.data.text import Text
from llm_jax.experiment import Experiment
from llm_jax.generation.rollouts import Rollouts
from llm_jax.models import presets
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.dpo import DPO
from llm_jax.objectives.ppo import PPO
from llm_jax.sharding import compiling, topologies
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.compiling import Compiled, DoesNotFit
from llm_jax.sharding.mesh import MeshShape, Slices
from llm_jax.training.optimizers import AdamW
from tests import command
from tests.compiling import needs_libtpu

GIB = 2**30
BIG = Experiment(
  model=dataclasses.replace(presets.llama3_8b(), remat="full"),
  data=Text(length=8192),
  optimizer=AdamW(),
  mesh=MeshShape(data=1, fsdp=-1),
  batch_size=512,
  microbatches=2,
)


def rows(said):
  assert said.code in (0, 3), said.err
  parts = [line.split("  ", 1) for line in said.out.splitlines() if line]
  return {p[0]: p[1].strip() for p in parts if len(p) == 2}


def analysed(experiment, name, slices=1):
  there = topologies.of(name, slices)
  return topology_plan.make(experiment, there, compile_it=False)


def test_a_pod_by_analysis():
  """64 chips: Adam keeps 12 bytes a parameter; computing at the peak."""
  plan = analysed(BIG, "v5p-128")
  assert plan.fits and plan.mesh["fsdp"] == 64
  assert plan.state == pytest.approx(12 * 8_030_261_248 / 64, rel=1e-4)
  per_token = roofline.executed(BIG.model, 8192)
  seconds = per_token * 512 * 8192 / 64 / 459e12
  assert plan.times.compute == pytest.approx(seconds, rel=1e-12)
  assert plan.times.limit == "compute"
  # Every block is computed once more: at most three quarters are of use.
  assert 0.70 < plan.mfu(plan.times.least, causal=True) < 0.75
  said = command.call(
    "plan", "--topology=v5p-128", "--nocompile", experiment=BIG
  )
  found = rows(said)
  assert found["fits"].startswith("yes, by analysis")
  assert "fsdp 64" in found["mesh"]


def test_bytes_sent_at_least():
  """Of 8 devices: 7/8 of the blocks' weights twice, of the tables once."""
  e = dataclasses.replace(BIG, mesh=MeshShape(data=1, fsdp=8), microbatches=1)
  plan = analysed(e, "v5e-8")
  blocks = 32 * (4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 14_336)
  tables = 128_256 * 4096
  by_kind = {x.kind: x.ici for x in plan.least}
  gathered = 7 / 8 * 2 * (2 * blocks + 2 * tables)
  assert by_kind["all-gather"] == pytest.approx(gathered, rel=1e-3)
  scattered = 7 / 8 * (2 * blocks + (2 + 4) * tables)  # the head in float32
  assert by_kind["reduce-scatter"] == pytest.approx(scattered, rel=1e-3)


def test_slices_send_gradients_over_the_slow_network():
  mesh = MeshShape(data=2, fsdp=-1, slices=Slices(data=2))
  plan = analysed(
    dataclasses.replace(BIG, mesh=mesh, microbatches=1), "v5e-256", 2
  )
  (sums,) = (x for x in plan.least if x.axes == ("data",))
  assert sums.ici == 0
  # A 256th of the gradients of each device, half of it received, twice.
  assert sums.dcn == pytest.approx(2 * 8_030_261_248 / 256, rel=0.1)
  assert plan.times.dcn == pytest.approx(sums.dcn / 3.125e9)


def test_stages_of_slices_hand_on_over_the_slow_network():
  """At the border all that a stage is handed, however many are within."""
  e = dataclasses.replace(BIG, microbatches=1)
  mesh = lambda n: MeshShape(stage=4, fsdp=-1, data=1, slices=Slices(stage=n))
  moved = lambda plan: next(
    x for x in plan.least if x.kind == "collective-permute"
  )
  near = moved(analysed(dataclasses.replace(e, mesh=mesh(1)), "v5e-256"))
  far = moved(analysed(dataclasses.replace(e, mesh=mesh(2)), "v5e-128", 2))
  assert near.dcn == far.ici == 0
  assert near.ici == far.dcn > 0


def test_experts_and_contexts_send_tokens_by_hand():
  """Experts' weights stay; of 4 devices each receives 3/4 of a whole."""
  mixtral = dataclasses.replace(presets.mixtral_8x7b(), remat="full")
  mesh = MeshShape(data=1, fsdp=4, expert=4)
  e = dataclasses.replace(
    BIG, model=mixtral, mesh=mesh, microbatches=1, batch_size=64
  )
  tokens = 32 * 64 * 8192 / 16 * 4096 * 2  # bytes of all layers, of a device
  told = lambda e: {(x.kind, x.why): x for x in analysed(e, "v5e-16").least}
  least = told(e)
  gathered = least["all-gather", "tokens of experts"]
  assert gathered.axes == ("expert",)
  assert gathered.ici == pytest.approx(3 * 3 / 4 * 4 * tokens)  # and anew
  scattered = least["reduce-scatter", "tokens of experts"]
  assert scattered.ici == pytest.approx(2 * 3 / 4 * 4 * tokens)
  weights = [x for x in analysed(e, "v5e-16").least if x.why == "weights"]
  assert {x.axes for x in weights} == {("fsdp",)}
  own = 3 * 32 * 8 * 4096 * 14_336 / 4  # of the experts that a device shares
  rest = 32 * (4096 * 128 * (2 * 32 + 2 * 8) + 4096 * 8) + 32_000 * 4096
  by_hand = 3 / 4 * 2 * (2 * own + 2 * (rest - 32_000 * 4096) + 2 * 131e6)
  assert weights[0].ici == pytest.approx(by_hand, rel=1e-2)

  mesh = MeshShape(data=1, fsdp=4, context=4)
  e = dataclasses.replace(BIG, mesh=mesh, microbatches=1, batch_size=64)
  least = told(e)
  keys = 32 * 64 * 8192 / 16 * 2 * 8 * 128 * 2
  gathered = least["all-gather", "keys and values"]
  assert gathered.axes == ("context",)
  assert gathered.ici == pytest.approx(2 * 3 / 4 * 4 * keys)
  scattered = least["reduce-scatter", "gradients of keys and values"]
  assert scattered.ici == pytest.approx(3 / 4 * 4 * keys)
  # Who shares positions adds up gradients.
  sums = least["all-reduce", "gradients"]
  assert sums.axes == ("context",) and sums.ici > 2 * 3 / 4 * 2 * 8e9 / 4


def test_links_of_a_torus():
  v5p, v5e = topologies.of("v5p-128"), topologies.of("v5e-256")
  mesh = {"data": 1, "fsdp": 16, "tensor": 4}
  assert roofline.links(v5p, mesh, ("tensor",)) == 2 * 100e9
  assert roofline.links(v5p, mesh, ("fsdp",)) == 4 * 100e9
  assert roofline.links(v5p, mesh, ("fsdp", "tensor")) == 6 * 100e9
  mesh = {"data": 1, "fsdp": 32, "tensor": 8}
  assert roofline.links(v5e, mesh, ("tensor",)) == 50e9  # half a row: a line
  assert roofline.links(topologies.of("h100-64"), mesh, ("tensor",)) == 450e9


def test_hosts_of_gpus_are_far_apart():
  sizes = {"data": 2, "fsdp": 16, "tensor": 2}
  over = topology_plan.hosts_along(sizes, 8)
  assert over == {"data": 2, "fsdp": 4, "tensor": 1}
  plan = analysed(dataclasses.replace(BIG, microbatches=1), "h100-64")
  assert plan.times.dcn > plan.times.ici > 0


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--topology=v5p-100"], "v5p has 8, 16"),
    (["--topology=v5q-128"], "did you mean"),
    (["--topology=v5e-16", "--mesh.fsdp=7"], "sizes may be 1, 2, 4, 8, 16"),
    (["--topology=v5e-16", "--mesh.fsdp=4"], "sizes may be 1, 2, 4, 8, 16"),
    (["--topology=v5e-16", "--slices=2"], "--mesh.slices.fsdp=2"),
    (["--topology=h100-16", "--slices=2"], "has no slices"),
    (["--topology=v5e-256", "--microbatches=3"], "not divisible"),
    (["--slices=2"], "needs --topology"),
    (["--search"], "needs --topology"),
    (["--nocompile"], "needs --topology"),
  ],
)
def test_what_cannot_be_is_told_in_a_line(flags, said):
  answer = command.call("plan", *flags, "--nocompile", experiment=BIG)
  if flags == ["--nocompile"]:
    answer = command.call("plan", *flags, experiment=BIG)
  assert answer.code == 2 and said in answer.error, answer


def test_without_libtpu_it_is_said_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  answer = command.call("plan", "--topology=v5p-128", experiment=BIG)
  assert answer.code == 2
  assert "pip install 'llm_jax[tpu]'" in answer.error
  assert "--nocompile" in answer.error


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_a_topology_that_libtpu_does_not_serve(error, monkeypatch):
  """In a line; a mistake of ours, such as a missing key, is none of its."""

  def refuse(*args, **kwargs):
    raise error("no such\nchips")

  monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
  monkeypatch.setattr(compiling.jax_topologies, "get_topology_desc", refuse)
  monkeypatch.setattr(compiling, "_ALONE", {})  # of this process, too
  with pytest.raises(KeyError if error is KeyError else ValueError) as e:
    compiling.devices(topologies.of("v5e-4"))
  if error is not KeyError:
    assert "does not serve it: no such chips" in str(e.value)
    assert str(e.value).startswith("--topology=v5e-4: libtpu")


def test_what_the_compiler_says_of_memory():
  said = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM,"
    " the total memory required for HLO temporaries (23.23G) exceeds available"
    " HBM (15.75G). HLO module: jit_train_step."
  )
  assert compiling.memory_of(said) == (23.23 * GIB, 15.75 * GIB)
  said = "Ran out of memory. Used 500.5M of 1.5G hbm. Exceeded"
  assert compiling.memory_of(said) == (500.5 * 2**20, 1.5 * GIB)
  assert compiling.memory_of("nothing") == (None, None)


def test_what_does_not_fit_ends_with_3(monkeypatch):
  said = "HLO temporaries (99.00G) exceeds available HBM (95.74G)"
  there = topologies.of("v5p-128")
  plan = analysed(BIG, "v5p-128")._replace(step=DoesNotFit(said))
  assert not plan.fits
  monkeypatch.setattr(topology_plan, "make", lambda *_: plan)
  answer = command.call("plan", "--topology=v5p-128", experiment=BIG)
  assert answer.code == 3 and "does not fit" in answer.err
  needs = planning.human(99 * GIB + plan.state)
  has = planning.human(there.chip.memory)
  assert f"needs {needs} of {has}" in rows(answer)["fits"]


def test_what_does_not_fit_by_analysis_ends_with_3():
  answer = command.call(
    "plan", "--topology=v5e-4", "--nocompile", experiment=BIG
  )
  assert answer.code == 3
  assert "does not fit" in answer.err


def test_a_search_finds_what_fits():
  """8 billion parameters on 16 chips of 15.75 GiB, in tight settings alone."""
  there = topologies.of("v5e-16")
  e = dataclasses.replace(BIG, batch_size=64)
  found = searching.candidates(e, there)
  assert found and all(c.bytes < 0.95 * 15.75 * GIB for c in found)
  speeds = [round(c.times.most, 3) for c in found]
  assert speeds == sorted(speeds)
  assert "--mesh.fsdp=" in found[0].flags and "--model.remat=" in found[0].flags
  plan = topology_plan.make(found[0].experiment, there, compile_it=False)
  assert plan.fits
  huge = dataclasses.replace(e, model=presets.llama3_70b())
  (least,) = searching.candidates(huge, there)
  assert least.bytes > 15.75 * GIB
  answer = command.call(
    "plan", "--topology=v5e-16", "--search", "--nocompile", experiment=e
  )
  assert answer.code == 0 and "paste: --mesh" in answer.out


def test_a_search_counts_what_each_microbatch_sends():
  """Copies of the model add up their gradients in each of them."""
  e = dataclasses.replace(BIG, model=presets.gpt2_124m(), batch_size=64)
  e = dataclasses.replace(e, data=Text(length=1024))
  on_copies = {
    c.experiment.microbatches: c.times.ici
    for c in searching.candidates(e, topologies.of("v5e-16"))
    if c.experiment.mesh.data == 16 and c.experiment.model.remat == "full"
  }
  assert on_copies[4] == pytest.approx(4 * on_copies[1])


def test_a_search_knows_what_narrow_parts_cost():
  """GPT-2's 768 rows over 256 devices are 3 each, less than a tile of 8."""
  e = dataclasses.replace(BIG, model=presets.gpt2_124m(), batch_size=512)
  e = dataclasses.replace(e, data=Text(length=1024))
  there = topologies.of("v5e-256")
  (one,) = (
    c
    for c in searching.candidates(e, there)
    if c.experiment.mesh.fsdp == 256
    and c.experiment.microbatches == 1
    and c.experiment.model.remat == "full"
  )
  plan = topology_plan.make(one.experiment, there, compile_it=False)
  assert 1.3 < one.times.ici / plan.times.ici <= 2


def test_the_flops_of_all_roles_count():
  """DPO's reference is a forward; a critic is a second model in training."""
  small = dataclasses.replace(BIG, data=Text(length=1024))
  asks = dataclasses.replace(
    small, objective=DPO(), data=Preferences(length=1024)
  )
  draws = dataclasses.replace(
    small,
    model=dataclasses.replace(small.model, outputs=1),
    objective=PPO(),
    data=Instructions(length=1024),
    rollouts=Rollouts(batch=512, max_prompt=512, max_new_tokens=512),
  )
  alone = analysed(small, "v5p-128")
  for e, worth in ((asks, 4 / 3), (draws, 2)):
    plan = analysed(e, "v5p-128")
    assert plan.trainings == pytest.approx(worth, rel=1e-12)
    known = plan.mfu(1.0, causal=True) / alone.mfu(1.0, causal=True)
    assert known == pytest.approx(worth, rel=1e-3)
    # What is computed anew is the policy's and the critic's.
    anew = alone.times.compute * (1 if e is asks else 2)
    assert plan.times.compute >= 0.999 * anew


def test_bytes_in_use_are_those_of_the_peak():
  """Temporaries of all kinds of memory together are no bytes of HBM."""
  memory = types.SimpleNamespace(
    argument_size_in_bytes=100,
    output_size_in_bytes=90,
    alias_size_in_bytes=80,
    temp_size_in_bytes=900,
    generated_code_size_in_bytes=7,
    peak_memory_in_bytes=500,
  )
  program = types.SimpleNamespace(
    memory_analysis=lambda: memory, as_text=lambda: "HloModule m"
  )
  lowered = types.SimpleNamespace(compile=lambda **_: program)
  found = compiling.compiled(lowered)
  assert found.total == 507 and found.temporaries == 390
  memory.peak_memory_in_bytes = 0  # not told: all there is, then
  assert compiling.compiled(lowered).total == 100 + 90 - 80 + 900 + 7


SMALL = Experiment(
  model=TransformerConfig(
    num_layers=2,
    embed_dim=256,
    mlp_dim=1024,
    num_heads=4,
    vocab_size=512,
    tied=False,
    head_chunk=64,
    max_length=128,
    dtype="bfloat16",
  ),
  data=Text(length=128),
  mesh=MeshShape(data=1, tensor=4),
  batch_size=64,
)


@needs_libtpu
def test_a_tensor_that_is_gathered_whole_is_told():
  """A table cut along both dims, as no table of ours is."""
  devices = compiling.devices(topologies.of("v5e-8"))
  mesh = mesh_lib.make(MeshShape(data=2, fsdp=2, tensor=2), devices)
  place = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))

  def loss(table_WE, ids_BT):
    x_BTE = jax.lax.with_sharding_constraint(
      table_WE[ids_BT], place(("data", "fsdp"))
    )
    return (x_BTE**2).sum()

  def heard(*cut):
    given = (place(*cut), place(("data", "fsdp")))
    shapes = (
      jax.ShapeDtypeStruct((1024, 512), jnp.float32),
      jax.ShapeDtypeStruct((64, 128), jnp.int32),
    )
    step = jax.jit(jax.grad(loss), in_shardings=given)
    return compiling.compiled(step.lower(*shapes)).warnings

  assert heard("tensor", "fsdp") and not heard(("fsdp", "tensor"))


@needs_libtpu
def test_a_step_compiled_for_a_tpu():
  """The state is donated, and what is sent is what the placement needs."""
  plan = topology_plan.make(SMALL, topologies.of("v5e-4"))
  assert isinstance(plan.step, Compiled)
  assert plan.fits and plan.donated and not plan.warnings
  assert plan.step.total < 200 * 2**20
  total = lambda found: sum(x.ici for x in found)
  assert total(plan.least) * 0.9 <= total(plan.sent) <= total(plan.least) * 1.1
  assert {x.axes for x in plan.sent} == {("tensor",)}
  assert all(x.dcn == 0 for x in plan.sent)
  assert planning.human(plan.needs)
