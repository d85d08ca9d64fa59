"""Which kernel computes attention; and splash computes what blocks do."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import axes
from llm_jax.models import kernels
from llm_jax.models.config import TransformerConfig
from llm_jax.models.kernels import Call
from llm_jax.ops import attention as ops
from llm_jax.ops import splash
from llm_jax.sharding import mesh as mesh_lib
from tests.compiling import needs_libtpu

ROOT = pathlib.Path(__file__).parents[2]
HALF, WIDE, DOUBLE = "bfloat16", "float32", "float64"

# What is named, the call, and the kernel or a part of what is said.
TABLE = [
  ("auto", Call("cpu", HALF, 64, 1024, "causal"), "blocks"),
  ("auto", Call("cpu", WIDE, 64, 1024, "packed"), "blocks"),
  ("auto", Call("cpu", WIDE, 64, 1024, "shared"), "blocks"),
  ("auto", Call("cpu", WIDE, 64, 1024, "other"), "masked"),
  ("auto", Call("cpu", WIDE, 64, 1, "cache"), "masked"),
  ("auto", Call("cpu", WIDE, 64, 1024, "packed", 4), "context"),
  ("auto", Call("cpu", WIDE, 64, 1024, "other", 4), "masked"),
  ("auto", Call("cpu", WIDE, 64, 8, "cache", 4), "masked"),
  ("auto", Call("gpu", HALF, 64, 1024, "causal"), "cudnn"),
  ("auto", Call("gpu", HALF, 128, 1024, "packed"), "cudnn"),
  ("auto", Call("gpu", HALF, 128, 8, "cache"), "cudnn"),
  ("auto", Call("gpu", HALF, 128, 1, "cache"), "masked"),
  ("auto", Call("gpu", WIDE, 128, 1024, "causal"), "blocks"),
  ("auto", Call("gpu", HALF, 256, 1024, "causal"), "blocks"),
  ("auto", Call("gpu", HALF, 20, 1024, "causal"), "blocks"),
  ("auto", Call("gpu", HALF, 128, 1024, "causal", 2), "context"),
  ("auto", Call("tpu", HALF, 64, 1024, "causal"), "splash"),
  ("auto", Call("tpu", WIDE, 256, 1024, "packed"), "splash"),
  ("auto", Call("tpu", HALF, 128, 1024, "causal", 4), "splash"),
  ("auto", Call("tpu", HALF, 128, 1000, "causal"), "blocks"),
  ("auto", Call("tpu", HALF, 128, 1024, "causal", 16), "context"),
  ("auto", Call("tpu", HALF, 128, 1024, "shared"), "blocks"),
  ("auto", Call("tpu", HALF, 128, 1024, "cache"), "masked"),
  ("auto", Call("tpu", DOUBLE, 128, 1024, "causal"), "blocks"),
  ("ring", Call("tpu", HALF, 128, 1024, "causal", 4), "context"),
  ("ring", Call("tpu", HALF, 128, 1024, "causal"), "splash"),
  ("ring", Call("cpu", HALF, 128, 1024, "other", 4), "gather can"),
  ("ring", Call("cpu", HALF, 128, 1024, "other"), "masked"),
  ("ring", Call("cpu", HALF, 128, 1, "cache", 4), "masked"),
  ("xla", Call("gpu", HALF, 128, 1024, "causal"), "blocks"),
  ("xla", Call("tpu", HALF, 128, 1024, "packed"), "blocks"),
  ("cudnn", Call("gpu", HALF, 128, 1024, "other"), "cudnn"),
  ("cudnn", Call("gpu", HALF, 128, 1, "cache"), "masked"),
  ("cudnn", Call("cpu", HALF, 128, 1024, "causal"), "needs a GPU, not cpu"),
  ("cudnn", Call("gpu", WIDE, 128, 1024, "causal"), "--model.dtype=bfloat16"),
  ("cudnn", Call("gpu", HALF, 256, 1024, "causal"), "128, not 256"),
  ("cudnn", Call("gpu", HALF, 64, 1024, "causal", 2), "--mesh.context=2"),
  ("splash", Call("tpu", HALF, 64, 1024, "packed"), "splash"),
  ("splash", Call("tpu", HALF, 64, 1, "causal"), "blocks"),
  ("splash", Call("tpu", HALF, 64, 8, "cache"), "masked"),
  ("splash", Call("gpu", HALF, 64, 1024, "packed"), "needs a TPU, not gpu"),
  ("splash", Call("tpu", HALF, 64, 192, "causal"), "128 positions, not 192"),
  ("splash", Call("tpu", HALF, 64, 384, "causal", 2), "256 positions, not 384"),
  ("splash", Call("tpu", HALF, 64, 1024, "other"), "an adapter brings"),
  ("splash", Call("tpu", DOUBLE, 64, 1024, "causal"), "not float64"),
]


@pytest.mark.parametrize(("named", "call", "want"), TABLE, ids=str)
def test_the_table(named, call, want):
  way = "ring" if named == "ring" else "gather"
  named = "auto" if named == "ring" else named
  config = TransformerConfig(attention=named, context_attention=way)
  try:
    assert kernels.choose(config, call) == want
  except ValueError as e:
    message = str(e)
    assert want in message and "\n" not in message
    assert f"--model.attention={named}" in message or way == "ring"


def test_ring_and_splash_are_not_for_each_other():
  config = TransformerConfig(attention="splash", context_attention="ring")
  with pytest.raises(ValueError, match=r"--model.context_attention=gather"):
    kernels.choose(config, Call("tpu", HALF, 64, 1024, "causal", 2))


def furniture(T, N, K, H):
  r = np.random.default_rng(0)
  draw = lambda n: jnp.asarray(r.normal(size=(2, T, n, H)), jnp.float32)
  segment = np.sort(r.integers(1, 4, (2, T)), axis=1)
  return (draw(N), draw(K), draw(K), draw(N)), segment.astype(np.int32)


def both(attention, given):
  *given, g = given

  def run(q, k, v):
    out, pull = jax.vjp(attention, q, k, v)
    return out, *pull(g)

  return [np.asarray(x) for x in jax.jit(run)(*given)]


@pytest.fixture
def interpreted(monkeypatch):
  """A TPU, played by the CPU."""
  make = functools.partial(splash.make, interpret=True)
  monkeypatch.setattr(splash, "make", make)
  monkeypatch.setattr(axes, "platform", lambda: "tpu")


@pytest.mark.parametrize(
  ("shape", "T", "K", "window"),
  [
    ((1, 1, 1, 1), 256, 2, None),
    ((1, 1, 1, 2), 256, 1, 100),
    ((1, 1, 2, 2), 512, 1, None),  # which is dealt
  ],
  ids=str,
)
def test_splash_is_attention_in_blocks(interpreted, shape, T, K, window):
  given, segment = furniture(T, 4, K, 32)
  config = TransformerConfig(attention="splash", window=window)
  mask = jnp.ones((2, 1, 1, 1), bool)  # of which only the kind is read
  attend = lambda segment: (
    lambda q, k, v: kernels.attend(
      *(q, k, v, mask, config, "packed", window, segment)
    )
  )
  want = both(
    lambda q, k, v: ops.causal_attention(q, k, v, window, segment), given
  )
  with jax.set_mesh(mesh_lib.make(mesh_lib.MeshShape(*shape))):
    got = both(attend(segment), given)
    if shape[-1] > 1:  # mutant: documents that begin elsewhere
      wrong = both(attend(np.roll(segment, 1, 1)), given)
      assert max(map(lambda a, b: np.abs(a - b).max(), wrong, want)) > 1e-2
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


_COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from llm_jax.models import transformer
from llm_jax.models.config import TransformerConfig
from llm_jax.sharding import mesh as mesh_lib
devices = topologies.get_topology_desc(
  platform="tpu", topology_name="v5e:2x4", chip_config_name="default",
  chips_per_host_bounds=(2, 2, 1)).devices
mesh = jax.make_mesh((1, 2, 1, 1, 2, 2), mesh_lib.NAMES, devices=devices,
  axis_types=(jax.sharding.AxisType.Auto,) * 6)
model = transformer.Decoder(TransformerConfig(
  num_layers=2, embed_dim=128, num_heads=4, num_kv_heads=2, head_dim=64,
  vocab_size=256, dtype="bfloat16", remat="full", attention="splash"))
place = lambda shape, dtype: jax.ShapeDtypeStruct(
  shape, dtype, sharding=jax.NamedSharding(mesh, jax.P()))
tokens = place((4, 512), jnp.int32)
with jax.set_mesh(mesh):
  variables = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
  variables = jax.tree.map(lambda x: place(x.shape, x.dtype), variables)
  loss = lambda v, t, s: model.apply(v, t, segment_BT=s).sum()
  run = jax.jit(jax.grad(loss)).lower(variables, tokens, tokens).compile()
assert run.as_text().count("tpu_custom_call") >= 4, "no kernel of a TPU"
"""


@needs_libtpu
def test_splash_compiles_for_a_tpu_that_is_not_here():
  done = subprocess.run(
    [sys.executable, "-c", _COMPILE],
    env=os.environ
    | {
      "TPU_SKIP_MDS_QUERY": "1",
      "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
      "JAX_ENABLE_COMPILATION_CACHE": "false",
      "PYTHONPATH": os.pathsep.join(
        [str(ROOT), os.environ.get("PYTHONPATH", "")]
      ),
    },
    capture_output=True,
    text=True,
    timeout=180,
    check=False,
  )
  assert done.returncode == 0, done.stderr
