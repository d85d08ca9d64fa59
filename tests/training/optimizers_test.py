"""Optimisers are their papers' equations, leaf by leaf and layer by layer."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax.models import transformer
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training import muon, optimizers
from llm_jax.training import state as state_lib
from tests import small
from tests.training.leaves import GRADS, ours, PARAMS, RATES, SCHEDULE, SUFFIXES

DECAYED = {"out", "query", "table", "up"}
KINDS = [
  optimizers.AdamW,
  optimizers.Lion,
  optimizers.Adafactor,
  optimizers.Muon,
]


def clipped(g, clip, mutant):
  norm = np.sqrt(sum((x * x).sum() for x in g.values()))
  each = {k: np.sqrt((x * x).sum()) for k, x in g.items()}
  if mutant == "clip each leaf":
    return {k: x * min(1, clip / each[k]) for k, x in g.items()}
  if mutant == "always scale":
    return {k: x * clip / norm for k, x in g.items()}
  return {k: x * min(1, clip / norm) for k, x in g.items()}


def adamw(mutant="", b1=0.8, b2=0.9, eps=0.1, clip=1.5, decay=0.3):
  p = dict(PARAMS)
  m = {k: 0.0 * x for k, x in p.items()}
  v = dict(m)
  for t, (g, rate) in enumerate(zip(GRADS, RATES, strict=True), 1):
    g = clipped(g, clip, mutant)
    for k in p:
      wanted = k in DECAYED or mutant == "decay all"
      if mutant == "decay two dims":
        wanted = p[k].ndim - SUFFIXES[k].count("L") >= 2
      if mutant == "decay in the gradient":
        g[k] = g[k] + decay * p[k] * wanted
      m[k] = b1 * m[k] + (1 - b1) * g[k]
      v[k] = b2 * v[k] + (1 - b2) * g[k] ** 2
      c1, c2 = 1 - b1**t, 1 - b2**t
      if mutant == "no bias correction":
        c1 = c2 = 1.0
      root = np.sqrt(v[k] / c2) + eps
      if mutant == "eps in the root":
        root = np.sqrt(v[k] / c2 + eps)
      if mutant == "eps before the correction":
        root = (np.sqrt(v[k]) + eps) / np.sqrt(c2)
      u = m[k] / c1 / root
      if mutant != "decay in the gradient":
        u = u + decay * p[k] * wanted
      if mutant == "decay without the rate":
        u = m[k] / c1 / root + decay * p[k] * wanted / rate
      p[k] = p[k] - rate * u
  return p


ADAMW = optimizers.AdamW(
  0.1, SCHEDULE, 1.5, weight_decay=0.3, b1=0.8, b2=0.9, eps=0.1
)


def test_adamw_is_the_paper():
  chex.assert_trees_all_close(ours(ADAMW), adamw(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
  "mutant",
  [
    "no bias correction",
    "eps in the root",
    "eps before the correction",
    "decay in the gradient",
    "decay without the rate",
    "decay all",
    "decay two dims",
    "clip each leaf",
    "always scale",
  ],
)
def test_another_adamw_is_caught(mutant):
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(adamw(mutant), adamw(), rtol=1e-4, atol=1e-4)


RAW = dataclasses.replace(ADAMW, eps_to="raw")


def tensorflows(grads, p, b1=0.8, b2=0.9, eps=0.1, decay=0.3):
  """One number by TensorFlow's Adam: lr_t m / (sqrt(v) + eps)."""
  m = v = 0.0
  for t, (g, rate) in enumerate(zip(grads, RATES, strict=True), 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    rate = float(np.float32(rate))  # a schedule's are float32
    lr = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
    p = p - lr * m / (np.sqrt(v) + eps) - rate * decay * p
  return p


def test_a_raw_epsilon_is_tensorflows():
  """Detail 22 of PPO: it is not the other's."""
  got = ours(RAW)
  grads = [clipped(g, 1.5, "") for g in GRADS]
  hand = [
    tensorflows([g["table"][i, j] for g in grads], PARAMS["table"][i, j])
    for i, j in np.ndindex(PARAMS["table"].shape)
  ]
  np.testing.assert_allclose(got["table"].ravel(), hand, rtol=1e-12)
  want = adamw("eps before the correction")
  chex.assert_trees_all_close(got, want, rtol=1e-7, atol=1e-8)
  # The mutant: the setting is not read.
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(ours(ADAMW), want, rtol=1e-4, atol=1e-4)
  # Without an epsilon they are one.
  none = [
    ours(dataclasses.replace(ADAMW, eps=0.0, eps_to=at))
    for at in ("corrected", "raw")
  ]
  chex.assert_trees_all_close(*none, rtol=1e-9)


def test_either_epsilon_has_the_same_state():
  """So a run need not know of it to be read."""
  like = jax.tree.map(jnp.asarray, PARAMS)
  one, other = (o.make(100, SUFFIXES).init(like) for o in (ADAMW, RAW))
  assert jax.tree.structure(one) == jax.tree.structure(other)


def lion(b1, b2, decay=0.3):
  p, m = dict(PARAMS), {k: 0.0 * x for k, x in PARAMS.items()}
  for g, rate in zip(GRADS, RATES, strict=True):
    for k in p:
      u = np.sign(b1 * m[k] + (1 - b1) * g[k])
      p[k] = p[k] - rate * (u + decay * p[k] * (k in DECAYED))
      m[k] = b2 * m[k] + (1 - b2) * g[k]
  return p


def test_lion_is_the_paper():
  got = ours(optimizers.Lion(0.1, SCHEDULE, None, 0.3, b1=0.3, b2=0.9))
  chex.assert_trees_all_close(got, lion(0.3, 0.9), rtol=1e-7, atol=1e-8)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(got, lion(0.9, 0.3), rtol=1e-4, atol=1e-4)


def adafactor(p, grads, mutant=""):
  """One stacked matrix [L, D, F], each layer by algorithm 4."""
  rows = cols = 0.0
  for t, g in enumerate(grads, 1):
    beta = 1 - t**-0.8
    square = g * g + 1e-30
    rows = beta * rows + (1 - beta) * square.mean(2)
    cols = beta * cols + (1 - beta) * square.mean(1)
    v = rows[:, :, None] * cols[:, None] / rows.mean(1)[:, None, None]
    u = g / np.sqrt(v)
    rms = np.sqrt((u * u).mean((1, 2), keepdims=True))
    if mutant == "clip the stack":
      rms = np.sqrt((u * u).mean())
    if mutant != "no clip":
      u = u / np.maximum(1, rms / 0.5)
    p = p - RATES[t - 1] * (u + 0.3 * p)
  return p


def test_adafactor_is_the_paper_in_each_layer():
  r = np.random.default_rng(0)
  p = r.normal(size=(2, 128, 130))
  # The second layer's gradient grows, so that only its update is clipped.
  grow = np.array([[1, 1], [0.9, 3], [0.8, 9]])[:, :, None, None]
  grads = list(r.normal(size=(3, 2, 128, 130)) * grow)
  settings = optimizers.Adafactor(0.1, SCHEDULE, None, 0.3, update_clip=0.5)
  got = ours(settings, p, grads, "LDF")
  np.testing.assert_allclose(got, adafactor(p, grads), rtol=2e-5, atol=1e-7)
  for mutant in ("clip the stack", "no clip"):
    wrong = adafactor(p, grads, mutant)
    assert np.abs(wrong - got).max() > 1e-3, mutant
  # Too small to factor: one second moment for each number.
  square = PARAMS["scale"] * 0
  want = PARAMS["scale"]
  for t, g in enumerate((g["scale"] for g in GRADS), 1):
    beta = 1 - t**-0.8
    square = beta * square + (1 - beta) * (g * g + 1e-30)
    u = g / np.sqrt(square)
    u /= np.maximum(1, np.sqrt((u * u).mean(1, keepdims=True)) / 0.5)
    want = want - RATES[t - 1] * u
  np.testing.assert_allclose(ours(settings)["scale"], want, rtol=2e-5)


def test_all_that_muon_leaves_is_adamw():
  """Adam without Nesterov, decay on the table and not on vectors."""
  common = {"weight_decay": 0.3, "b1": 0.8, "b2": 0.9, "eps": 0.1}
  got = ours(optimizers.Muon(0.1, SCHEDULE, 1.5, **common))
  for name in ("query_bias", "scale", "table"):
    np.testing.assert_allclose(got[name], adamw()[name], rtol=1e-6)
  for name in ("out", "query", "up"):
    assert np.abs(got[name] - adamw()[name]).max() > 1e-2


def boxed_of(shape="llama"):
  model = transformer.Decoder(small.SHAPES[shape])
  tokens = jnp.zeros((1, 4), jnp.int32)
  return {"policy": jax.eval_shape(model.init, jax.random.key(0), tokens)}


@pytest.mark.parametrize("shape", small.SHAPES)
def test_kernels_and_tables_decay_and_nothing_else(shape):
  suffixes = dict(trees.paths(axes.suffixes(boxed_of(shape))))
  last = {path: path.split("/")[-1] for path in suffixes}
  assert set(last.values()) <= {
    *("kernel", "embedding", "positions", "head"),
    *("bias", "scale", "router", "distances", "head_bias"),
    *("output_head", "output_bias"),
  }
  for path, suffix in suffixes.items():
    small_ones = ("bias", "scale", "head_bias", "distances", "output_bias")
    assert muon.is_matrix(suffix) == (last[path] not in small_ones), path
    hidden = "/blocks/" in path and last[path] in ("kernel", "router")
    assert muon.is_hidden(suffix) == hidden, path


def test_two_dims_are_not_a_matrix():
  """The mutant of the mask: the query heads' bias, [N, H], as a matrix."""
  suffixes = dict(trees.paths(axes.suffixes(boxed_of("gpt2"))))
  wrong = [p for p, s in suffixes.items() if len(s.replace("L", "")) > 1]
  assert any(p.endswith("query/bias") for p in wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_placed_and_typed_like_their_parameters(kind):
  mesh = mesh_lib.make(mesh_lib.MeshShape(2, 2, 2))
  boxed = boxed_of()
  optimizer = kind().make(10, axes.suffixes(boxed))
  create = lambda boxed: state_lib.create(
    boxed, lambda p: True, optimizer, jax.random.key(0)
  )
  state = jax.eval_shape(create, boxed)

  def moments(state):
    """(parameter, dtype, whether placed like it) of each of its size."""
    params = list(trees.paths(axes.unbox(state.trainable)))
    placed = dict(trees.paths(axes.shardings(state.trainable, mesh)))
    where = dict(trees.paths(axes.shardings(state.opt_state, mesh)))
    for path, x in trees.paths(axes.unbox(state.opt_state)):
      for name, p in params:
        if path.endswith(name) and x.shape == p.shape:
          yield name, x.dtype, where[path] == placed[name]

  found = list(moments(state))
  assert all(same and dtype == jnp.float32 for _, dtype, same in found)
  count = {n: sum(n == m for m, _, _ in found) for n, _, _ in found}
  for path, suffix in trees.paths(axes.suffixes(boxed)):
    two = kind is optimizers.AdamW or (
      kind is optimizers.Muon and not muon.is_hidden(suffix)
    )
    assert count[path] == 1 + two, path
  # The mutant: parameters that have forgotten their letters.
  bare = jax.eval_shape(create, axes.unbox(boxed)).opt_state
  assert not all(
    same for _, _, same in moments(dataclasses.replace(state, opt_state=bare))
  )


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_cut_over_devices_move_as_whole_ones(kind):
  settings = kind(0.1, SCHEDULE, 1.5, 0.3)
  mesh = mesh_lib.make(mesh_lib.MeshShape(2, 2, 2))

  def place(tree):
    spec = lambda suffix, x: jax.sharding.NamedSharding(
      mesh, axes.spec(suffix, "weight", x.shape, dict(mesh.shape))
    )
    with jax.enable_x64(True):
      return jax.device_put(tree, jax.tree.map(spec, SUFFIXES, tree))

  got = ours(settings, place(PARAMS), [place(g) for g in GRADS])
  chex.assert_trees_all_close(got, ours(settings), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_half_has_no_moments_and_no_updates(kind):
  settings = kind(0.1, SCHEDULE, None, 0.3)
  trained = {"query", "query_bias"}
  half = lambda tree: {k: x if k in trained else None for k, x in tree.items()}
  whole, some = (
    ours(settings),
    ours(settings, half(PARAMS), [half(g) for g in GRADS]),
  )
  assert {k for k, x in some.items() if x is not None} == trained
  for name in trained:
    np.testing.assert_allclose(some[name], whole[name], rtol=1e-12)
  init = settings.make(100, SUFFIXES).init
  params = jax.tree.map(jnp.asarray, PARAMS)
  state, full = init(half(params)), init(params)
  assert trees.size(state) < 0.5 * trees.size(full)


@pytest.mark.parametrize(
  ("settings", "flag"),
  [
    (optimizers.AdamW(clip=0.0), "--optimizer.clip=0"),
    (optimizers.AdamW(b1=1.0), "--optimizer.b1=1"),
    (optimizers.Muon(b2=1.0), "--optimizer.b2=1"),
    (optimizers.Adafactor(update_clip=0.0), "--optimizer.update_clip=0"),
  ],
)
def test_settings_that_cannot_train_are_refused(settings, flag):
  with pytest.raises(ValueError, match=flag):
    settings.make(10, SUFFIXES)
