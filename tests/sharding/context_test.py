"""Rows whose positions are cut over devices: one device's step, every way."""

import dataclasses
import functools
import subprocess
import sys

import jax
import numpy as np
import pytest

from llm_jax import axes
from llm_jax.generation import decode as decode_lib
from llm_jax.models import cache as cache_lib
from llm_jax.models import heads, kernels
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from tests import small
from tests.sharding import steps
from tests.sharding.laws_test import _environment, difference

T = 16
CONFIGS = {
  "plain": steps.CONFIG,
  "window": dataclasses.replace(steps.CONFIG, window=5, num_kv_heads=2),
  "grouped": dataclasses.replace(
    steps.CONFIG,
    num_kv_heads=1,
    positions="learned",
    head_chunk=6,
    remat="full",
    unroll=0,
    dropout=0.1,
  ),
}


def batch(packed=True):
  """Rows of three documents and padding, or of one each."""
  r = np.random.default_rng(0)
  tokens = r.integers(0, small.DIMS.V, (small.DIMS.B, T + 1)).astype(np.int32)
  found = {"tokens_BT": tokens[:, :-1], "target_BT": tokens[:, 1:]}
  ends = np.sort(r.integers(1, T + 1, (small.DIMS.B, 3)), axis=1)
  place = np.arange(T)
  if not packed:
    return found | {"mask_BT": place < ends[:, -1:]}
  before = (place[None, None] >= ends[:, :, None]).sum(1)
  starts = np.concatenate([np.zeros_like(ends[:, :1]), ends], 1)
  position = place - np.take_along_axis(starts, before, 1)
  segment = np.where(before < 3, before + 1, 0)
  return found | {
    "mask_BT": segment > 0,
    "segment_BT": segment.astype(np.int32),
    "position_BT": position.astype(np.int32),
  }


@functools.cache
def one_device(name, packed):
  with jax.enable_x64(True):
    return steps.run((1, 1, 1), config=CONFIGS[name], batch=batch(packed))


def cut(shape, way, name="plain", packed=True, **more):
  config = dataclasses.replace(CONFIGS[name], context_attention=way)
  with jax.enable_x64(True):
    return steps.run(shape, config=config, batch=batch(packed), **more)


# (data, fsdp, tensor, context), shape of model, packed, microbatches
CASES = [
  ((1, 1, 1, 2), "plain", True, 1),
  ((1, 1, 1, 4), "window", True, 1),
  ((1, 1, 1, 8), "plain", False, 1),
  ((2, 1, 2, 2), "grouped", True, 1),
  ((1, 2, 1, 4), "plain", True, 2),
  ((1, 1, 4, 2), "window", False, 2),
]


@pytest.mark.parametrize("way", ["gather", "ring"])
@pytest.mark.parametrize(("shape", "name", "packed", "parts"), CASES)
def test_cut_rows_are_whole_rows(shape, name, packed, parts, way):
  got = cut(shape, way, name, packed, microbatches=parts)
  assert difference(got, one_device(name, packed)) < 1e-12


def on(shape, f, *given):
  """f(*given) in float64, compiled for a mesh."""
  with jax.enable_x64(True):
    with jax.set_mesh(mesh_lib.make(mesh_lib.MeshShape(*shape))):
      return jax.tree.map(np.asarray, jax.jit(f)(*given))


ADAPTERS = {
  "prompt of packed rows": (4, "plain", batch()),
  "prompt and a window": (4, "window", batch()),
  "prefix": (3, "plain", {}),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_virtual_tokens_are_seen_from_every_device(name):
  tokens, shape, rows = ADAPTERS[name]
  config = CONFIGS[shape]
  r = np.random.default_rng(1)
  with jax.enable_x64(True):
    model, variables = small.build(config)
  new = {"prompt": r.normal(size=(tokens, small.DIMS.D))}
  if name == "prefix":
    size = (config.num_layers, tokens, config.K, config.H)
    each = {f"prefix_{n}": r.normal(size=size) for n in ("key", "value")}
    new = {"blocks": {"attention": each}}
  given = {k: rows[k] for k in ("segment_BT", "position_BT") if k in rows}
  weight = r.normal(size=(small.DIMS.B, T, small.DIMS.D))

  def loss(new):
    x_BTD = model.apply(
      variables | {"adapters": new}, batch()["tokens_BT"], **given
    )
    return (x_BTD * weight).sum()

  run = jax.value_and_grad(loss)
  want, got = on((1, 1, 1), run, new), on((2, 1, 1, 4), run, new)
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_what_is_drawn_is_what_one_device_draws():
  config = dataclasses.replace(CONFIGS["grouped"], context_attention="ring")
  with jax.enable_x64(True):
    model, variables = small.build(config)
  prompt = batch()["tokens_BT"]
  length = np.arange(small.DIMS.B, dtype=np.int32) + 3

  def draw(variables, prompt, length):
    decode = lambda v, *a: model.apply(v, *a, method="decode")
    return decode_lib.rollout(
      *(decode, variables, prompt, length),
      cache_lib.empty(model.config, small.DIMS.B, T + 6),
      jax.random.key(0),
      limit=6,
      sampler=Sampler(1.0),
      stop_ids=(1,),
    )

  run = lambda shape: on(shape, draw, variables, prompt, length)
  want, got = run((1, 1, 1)), run((1, 1, 2, 4))
  np.testing.assert_array_equal(got.tokens_BT, want.tokens_BT)
  np.testing.assert_allclose(got.sampled_logp_BT, want.sampled_logp_BT)


def test_positions_asked_about_are_scored_where_they_are():
  """By context alone nothing of the activations is gathered or moved."""
  r = np.random.default_rng(0)
  D, V = 8, 12
  x, w = r.normal(size=(4, T, D)), r.normal(size=(D, V))
  target, asked = r.integers(0, V, (4, T)), r.random((4, T)) < 0.3

  def score(x, w, target, asked):
    own = lambda x, w: heads.token_scores(x, w, target, asked_BT=asked)
    return jax.value_and_grad(lambda *a: own(*a).logp_BT.sum(), (0, 1))(x, w)

  want = on((1, 1, 1), score, x, w, target, asked)
  got = on((2, 1, 1, 4), score, x, w, target, asked)
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


_COMPILE = r"""
import dataclasses, re, sys
import jax
from llm_jax.sharding import mesh as mesh_lib
from tests.sharding import context_test, steps

for shape, way in (((1, 2, 2, 2), "gather"), ((1, 1, 1, 8), "ring")):
  mesh = mesh_lib.make(mesh_lib.MeshShape(*shape))
  config = dataclasses.replace(steps.CONFIG, context_attention=way)
  with jax.set_mesh(mesh):
    step, *given = steps.plan(mesh, config, context_test.batch())
    text = step.lower(*given).compile().as_text()
  found = re.findall(r" = .*f32.* all-(?:gather|to-all)\(", text)
  print(way, len(found))
"""


def test_a_ring_gathers_nothing_and_nobody_gathers_to_cut_anew():
  done = subprocess.run(
    [sys.executable, "-c", _COMPILE],
    env=_environment(
      8, TF_CPP_MIN_LOG_LEVEL="0", JAX_ENABLE_COMPILATION_CACHE="false"
    ),
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "full rematerialization" not in done.stderr.lower()
  counts = dict(line.split() for line in done.stdout.splitlines())
  assert int(counts["ring"]) == 0 < int(counts["gather"])


def test_a_rings_memory_falls_with_its_size():
  """Temporaries of a gradient on a device: near 1 / n of them, and fewer than
  where it has all keys of a row."""
  config = dataclasses.replace(
    steps.CONFIG, num_layers=1, max_length=2048, dtype="float32"
  )

  def temporaries(size, way):
    its = dataclasses.replace(config, context_attention=way)
    mesh = mesh_lib.make(mesh_lib.MeshShape(1, 1, 1, size))
    x = jax.ShapeDtypeStruct((1, 2048, 8, 64), np.float32)
    attend = lambda *qkv: kernels.attend(*qkv, None, its, "causal").sum()
    with jax.set_mesh(mesh):
      place = axes.spec("BTNH", "activation", x.shape, axes.sizes())
      grad = jax.jit(
        jax.grad(attend, (0, 1, 2)),
        in_shardings=jax.NamedSharding(mesh, place),
        out_shardings=jax.NamedSharding(mesh, place),
      )
      return grad.lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

  ring = [temporaries(size, "ring") for size in (2, 4, 8)]
  assert ring[0] > 1.6 * ring[1] > 1.6**2 * ring[2]
  assert temporaries(8, "gather") > 1.3 * ring[2]
