"""Token scores: any chunks give the same, and full logits never exist."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax import axes
from llm_jax.models import heads, transformer
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.causal import Causal
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from tests import small

B, T, D, V = 3, 7, 5, 11


def furniture():
  r = np.random.default_rng(0)
  x, w = r.normal(size=(B, T, D)), 2 * r.normal(size=(D, V))
  return x, w, r.integers(0, V, (B, T), np.int32), r.normal(size=(3, B, T))


def naive(x, w, target, softcap):
  l = x @ w
  l = softcap * jnp.tanh(l / softcap) if softcap else l
  logp = jax.nn.log_softmax(l)
  return (
    jnp.take_along_axis(logp, target[..., None], -1)[..., 0],
    jax.nn.logsumexp(l, -1),
    -(jnp.exp(logp) * logp).sum(-1),
  )


def with_gradients(f):
  """Values, and gradients of a random sum of all three, under jit."""
  x, w, target, weight = furniture()

  def loss(x, w):
    values = f(x, w, target)
    return sum((a * b).sum() for a, b in zip(values, weight, strict=True)), (
      values
    )

  grads, values = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, w)
  return [*values, *grads]


def ours(chunk, softcap):
  def f(x, w, target):
    return heads.token_scores(
      x, w, target, softcap=softcap, chunk=chunk, entropy=True
    )[:3]

  return with_gradients(f)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_any_chunks_give_the_naive_scores_and_gradients(softcap):
  with jax.enable_x64(True):
    want = with_gradients(functools.partial(naive, softcap=softcap))
    for chunk in (0, 1, 3, T, 50):
      for a, b in zip(ours(chunk, softcap), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    # Mutants: another cap; the gradient of the normaliser left out.
    for a, b in zip(ours(3, 2.0), want, strict=True):
      assert np.abs(a - b).max() > 1e-2

    def unnormalised(x, w, target):
      logp, logz, entropy = naive(x, w, target, softcap)
      still = jax.lax.stop_gradient(logz)
      return logp + logz - still, logz, entropy

    wrong = with_gradients(unnormalised)
    assert np.abs(wrong[3] - want[3]).max() > 1e-2


def test_chunks_of_its_own_choice_are_as_large_as_allowed(monkeypatch):
  with jax.enable_x64(True):
    want = ours(0, None)
    for size, chunk in ((B * V * 4 * 3, 3), (B * V * 4, 1), (1, 1)):
      monkeypatch.setattr(heads, "LOGIT_BYTES", size)
      assert heads._chunk_that_fits(B, T, V) == chunk
      for a, b in zip(ours(0, None), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_scores_of_bfloat16_are_computed_in_float32():
  x, w, target, _ = furniture()
  x, w = (jnp.asarray(a, jnp.bfloat16) for a in (x, w))
  got = heads.token_scores(x, w, target, entropy=True, hits=True)
  wide = heads.token_scores(
    x.astype(jnp.float32), w.astype(jnp.float32), target, entropy=True
  )
  assert got.logp_BT.dtype == jnp.float32
  np.testing.assert_allclose(got.logp_BT, wide.logp_BT, atol=1e-5)
  narrow = jax.nn.log_softmax(x @ w)  # the mutant
  narrow = np.take_along_axis(np.asarray(narrow), target[..., None], -1)[..., 0]
  assert np.abs(narrow.astype(np.float32) - wide.logp_BT).max() > 1e-3


def test_large_logits_do_not_overflow():
  x, w = np.full((1, 2, 1), 1e4, np.float32), np.array([[1.0, -1.0, 0.5]])
  target = np.array([[0, 1]], np.int32)
  for chunk in (1, 2):
    got = heads.token_scores(
      x, w.astype(np.float32), target, chunk=chunk, entropy=True
    )
    assert got.logp_BT.tolist() == [[0.0, -2e4]]
    assert got.entropy_BT.tolist() == [[0.0, 0.0]]


WIDE = TransformerConfig(
  num_layers=1,
  embed_dim=8,
  mlp_dim=8,
  num_heads=1,
  vocab_size=4096,
  max_length=32,
)
ROWS, LENGTH = 4, 32


def train_step(config, rows, length, microbatches=1):
  """(step, state, batch): the real step, and what it takes, as shapes."""
  model = transformer.Decoder(config)
  optimizer = optax.sgd(0.1)
  step = functools.partial(
    step_lib.train_step,
    objective=Causal(z_loss=1e-4),
    forward={"policy": small.score_fn(model)},
    optimizer=optimizer,
    microbatches=microbatches,
  )

  def make():
    variables = axes.unbox(
      model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    )
    return state_lib.create(
      {"policy": variables}, lambda path: True, optimizer, jax.random.key(1)
    )

  ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  batch = {"tokens_BT": ids, "target_BT": ids}
  batch["mask_BT"] = jax.ShapeDtypeStruct((rows, length), jnp.bool)
  return step, jax.eval_shape(make), batch


def largest(text):
  """Elements of the largest array named in a program's text, and its name."""
  shapes = set(re.findall(r"\b(?:f32|f64|bf16|f16)\[([\d,]+)\]", text))
  sizes = {s: int(np.prod([int(n) for n in s.split(",")])) for s in shapes}
  return max((n, s) for s, n in sizes.items())


@functools.cache
def compiled(chunk):
  config = dataclasses.replace(WIDE, head_chunk=chunk)
  step, state, batch = train_step(config, ROWS, LENGTH)
  return jax.jit(step).lower(state, batch).compile()


def test_full_logits_are_not_in_the_compiled_step():
  """Neither forward nor backward: no array so large, and less memory."""
  whole = ROWS * LENGTH * WIDE.vocab_size
  chunk, mutant = compiled(4), compiled(LENGTH)
  assert largest(chunk.as_text())[0] < whole / 2
  assert chunk.memory_analysis().temp_size_in_bytes < 4 * whole
  # The mutant: all positions at once.
  assert largest(mutant.as_text())[0] >= whole
  assert mutant.memory_analysis().temp_size_in_bytes >= 4 * whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_full_logits_are_not_asked_for_at_real_sizes(dtype, microbatches):
  """GPT-2's vocabulary, context 1,024: by default at most 128 MiB at once."""
  config = dataclasses.replace(
    WIDE, vocab_size=50_304, max_length=1024, dtype=dtype, tied=False
  )

  def asked(config):
    text = str(jax.make_jaxpr(step)(state, batch))
    return largest(text)[0]

  step, state, batch = train_step(config, 8, 1024, microbatches)
  assert asked(config) * 4 <= heads.LOGIT_BYTES
  at_once = dataclasses.replace(config, head_chunk=1024)  # the mutant
  step, state, batch = train_step(at_once, 8, 1024, microbatches)
  assert asked(at_once) >= 8 // microbatches * 1024 * 50_304


def asked_masks():
  r = np.random.default_rng(1)
  yield r.random((B, T)) < 0.3
  yield np.zeros((B, T), bool)
  yield np.ones((B, T), bool)
  last = np.zeros((B, T), bool)
  last[-1, -1] = True
  yield last


@pytest.mark.parametrize("parts", [1, 4, B * T])
def test_scores_of_some_positions_are_those_of_all(parts, monkeypatch):
  monkeypatch.setattr(heads, "_PARTS", parts)

  @jax.jit
  def both(x, w, special, target, weight, asked):
    def loss(given, asked):
      x, w, special = given
      scores = heads.token_scores(
        x,
        w,
        target,
        entropy=True,
        softcap=3.0,
        special_GD=special,
        asked_BT=asked,
      )[:3]
      there = 1 if asked is not None else mask
      return sum(
        (a * b * there).sum() for a, b in zip(scores, weight, strict=True)
      ), scores

    mask, given = asked, (x, w, special)
    grad = jax.grad(loss, has_aux=True)
    return grad(given, asked), grad(given, None)

  with jax.enable_x64(True):
    x, w, target, weight = furniture()
    special = np.random.default_rng(2).normal(size=(2, D))
    for asked in asked_masks():
      some, every = both(x, w, special, target, weight, asked)
      for a, b in zip(some[0], every[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
      for a, b in zip(some[1], every[1], strict=True):
        np.testing.assert_allclose(a, np.where(asked, b, 0), rtol=1e-12)


def test_positions_asked_about_stay_on_their_device(monkeypatch):
  """Rows cut over eight devices: the same scores, and no activation moves."""
  mesh = mesh_lib.make(mesh_lib.MeshShape(1, 8, 1))
  cut = jax.sharding.PartitionSpec(("data", "fsdp"))
  place = lambda a: jax.device_put(a, jax.sharding.NamedSharding(mesh, cut))
  r = np.random.default_rng(0)
  x, w = r.normal(size=(16, T, D)), r.normal(size=(D, V))
  target, asked = r.integers(0, V, (16, T)), r.random((16, T)) < 0.3

  def compiled(x, target, asked, chunk=0):
    def score(x, w, target, asked):
      asked = None if chunk else asked
      return heads.token_scores(
        x, w, target, asked_BT=asked, chunk=chunk
      ).logp_BT

    run = jax.jit(jax.value_and_grad(lambda *a: score(*a).sum(), (0, 1)))
    return run.lower(x, w, target, asked).compile()

  with jax.enable_x64(True):
    want = compiled(x, target, asked)(x, w, target, asked)
    want_all = compiled(x, target, asked, chunk=2)(x, w, target, asked)
    with jax.set_mesh(mesh):
      given = place(x), place(target), place(asked)
      ours = compiled(*given)
      got = ours(given[0], w, *given[1:])
      every = compiled(*given, chunk=2)  # of all positions, chunk by chunk
      got_all = every(given[0], w, *given[1:])
      monkeypatch.setattr(axes, "cuts", lambda letter: 1)
      mutant, at_each = compiled(*given), compiled(*given, chunk=2)
  pairs = ((got, want), (got_all, want_all))
  for a, b in zip(*map(jax.tree.leaves, zip(*pairs, strict=True)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
  moves = ("all-gather", "all-to-all", "collective-permute")
  assert not any(m in ours.as_text() for m in moves)
  assert any(m in mutant.as_text() for m in moves)
  # The head's gradient is added up once, not at each chunk.
  adds = lambda program: [
    line for line in program.as_text().splitlines() if " all-reduce(" in line
  ]
  for program in (ours, every):
    added = adds(program)
    assert added and not any("while/body" in x for x in added)
  assert any("while/body" in x for x in adds(at_each))  # it can be seen
