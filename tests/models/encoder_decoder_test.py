"""Laws of encoder-decoders, in float64, each beside a mutant it catches."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from llm_jax import axes, trees
from llm_jax import model as model_lib
from llm_jax.models import crossing, sizing
from llm_jax.models.encoder_decoder_config import Encoder, EncoderDecoderConfig
from llm_jax.ops import slots
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.sharding.mesh import MeshShape
from tests import small
from tests.models import cache_test

S = 9  # positions of a source
SHAPES = {**small.APART, **small.LISTENING}
EVERY = pytest.mark.parametrize("shape", SHAPES)


def batch(seed=0):
  """Rows with sources of several lengths."""
  r = np.random.default_rng(seed + 7)
  out = small.causal_batch(seed)
  B, T = out["tokens_BT"].shape
  read = np.arange(S)[None] < r.integers(1, S + 1, B)[:, None]
  return out | {
    "segment_BT": np.ones((B, T), np.int32),
    "source_BS": r.integers(0, small.DIMS.V, (B, S)).astype(np.int32),
    "source_segment_BS": read.astype(np.int32),
  }


@EVERY
def test_parameters_are_counted(shape):
  config = SHAPES[shape]
  _, variables = small.build(config)
  assert sizing.parameters(config).total == trees.size(variables)


@pytest.mark.parametrize("shape", small.LISTENING)
def test_sizing_knows_what_a_recurrent_one_does_and_keeps(shape):
  """Flops by hand; a cache as it is when a source was read."""
  c, S = small.LISTENING[shape], 64
  D, V, J = c.embed_dim, c.vocab_size, c.gates
  cells = {"both": 2 * (D // 2) * (D + D // 2), "forward": 2 * D * D}
  maps = 2 * J * (2 * D * D + cells[c.directions]) + V * D
  attention = {"general": 3 * D * D, "dot": 2 * D * D}[c.score]
  want = 6 * (maps + attention) + 6 * 2 * D * S  # scores and what is found
  assert sizing.flops_per_token(c, S).causal == want
  read = 2 * J * cells[c.directions] + D * D * (c.score == "general")
  more = 6 * read + 6 * 2 * D * S  # as much again is read
  assert sizing.flops_per_token(c, S, 2 * S).causal == want + more
  its = model_lib.of_shape(c)
  _, variables = small.build(c)
  tokens, place, segment = cache_test.padded()
  _, kept = jax.eval_shape(
    *(its.decode, variables, tokens, place, segment),
    its.open_cache(variables, 4, cache_test.P),
  )
  held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
  assert sizing.cache_bytes(c, 4, cache_test.P) == held


@EVERY
def test_scanned_is_unrolled_and_remat_is_none(shape):
  config, rows = SHAPES[shape], batch()
  with jax.enable_x64(True):
    _, variables = small.build(config)
    want = small.logp_and_grads(config, variables, rows)
    other = dataclasses.replace(config, unroll=0, remat="dots")
    got = small.logp_and_grads(other, variables, rows)
    chex.assert_trees_all_close(got, want, atol=1e-12, rtol=1e-10)
    # Mutant: the encoder's layers, swapped.
    params = variables["params"]
    its = params["encoder"]["blocks"]
    swapped = params["encoder"] | {
      "blocks": jax.tree.map(lambda x: x[::-1], its)
    }
    got = small.logp_and_grads(
      config, {"params": params | {"encoder": swapped}}, rows
    )
  assert np.abs(got[1] - want[1]).max() > 1e-3


TARGETS, SOURCES = [3, 5, 2], [4, 1, 3]


def packed(others=False, runs_on=False):
  """Examples of one row, with padding behind; and each by itself.

  The mutants: sources of which each is another example's; their places run on.
  """
  r = np.random.default_rng(0)
  draw = lambda n: r.integers(0, 16, n).astype(np.int32)
  written = [draw(n + 1) for n in TARGETS]
  read = [draw(n) for n in SOURCES]

  def join(parts, size):
    row = np.concatenate(parts)
    return np.pad(row, (0, size - len(row)))[None].astype(np.int32)

  T, count = small.DIMS.T, range(len(TARGETS))
  of = [2, 3, 1] if others else [1, 2, 3]
  places = join([np.arange(n) for n in SOURCES], S)
  row = {
    "tokens_BT": join([d[:-1] for d in written], T),
    "target_BT": join([d[1:] for d in written], T),
    "segment_BT": join([[i + 1] * TARGETS[i] for i in count], T),
    "position_BT": join([np.arange(n) for n in TARGETS], T),
    "source_BS": join(read, S),
    "source_segment_BS": join([[of[i]] * SOURCES[i] for i in count], S),
    "source_position_BS": np.arange(S)[None] if runs_on else places,
  }
  most = max(TARGETS), max(SOURCES)
  alone = [
    {
      "tokens_BT": join([w[:-1]], most[0]),
      "target_BT": join([w[1:]], most[0]),
      "source_BS": join([s], most[1]),
      "source_segment_BS": join([np.ones(len(s))], most[1]),
    }
    for w, s in zip(written, read, strict=True)
  ]
  return row, alone


@EVERY
def test_packed_is_apart(shape):
  """Examples of one row score as they do alone, all gradients included."""
  config = SHAPES[shape]
  row, alone = packed()
  weight_T = np.random.default_rng(1).normal(size=sum(TARGETS))
  with jax.enable_x64(True):
    model, variables = small.build(config)

    def loss(v, its, weight_T):
      logp_BT = model.apply(v, its, method="score").logp_BT
      return (logp_BT[0] * weight_T).sum()

    run = jax.jit(jax.value_and_grad(loss))
    whole = np.pad(weight_T, (0, small.DIMS.T - len(weight_T)))
    got = run(variables, row, whole)
    at, wants = 0, []
    for its, n in zip(alone, TARGETS, strict=True):
      own = np.pad(weight_T[at : at + n], (0, max(TARGETS) - n))
      wants.append(run(variables, its, own))
      at += n
    want = jax.tree.map(lambda *x: sum(map(np.asarray, x)), *wants)
    chex.assert_trees_all_close(got, want, atol=1e-11, rtol=1e-9)
    mutants = [{"others": True}]
    if getattr(config, "positions", "") == "learned":
      mutants.append({"runs_on": True})
    for mutant in mutants:
      wrong = run(variables, packed(**mutant)[0], whole)
      with pytest.raises(AssertionError):
        chex.assert_trees_all_close(wrong, want, atol=1e-3)


@EVERY
def test_no_token_sees_a_later_one_and_all_see_the_source(shape):
  rows = batch()
  later = {k: v.copy() for k, v in rows.items()}
  later["tokens_BT"][:, 6:] = (later["tokens_BT"][:, 6:] + 1) % 16
  other = {k: v.copy() for k, v in rows.items()}
  other["source_BS"][:, 0] = (other["source_BS"][:, 0] + 1) % 16
  padded = {k: v.copy() for k, v in rows.items()}
  hidden = padded["source_segment_BS"] == 0
  padded["source_BS"][hidden] = (padded["source_BS"][hidden] + 1) % 16
  with jax.enable_x64(True):
    model, variables = small.build(SHAPES[shape])
    score = jax.jit(lambda v, b: model.apply(v, b, method="score").logp_BT)
    want = score(variables, rows)
    got = score(variables, later)
    np.testing.assert_array_equal(got[:, :6], want[:, :6])
    assert np.abs(got[:, 6:] - want[:, 6:]).max() > 1e-3
    moved = np.abs(score(variables, other) - want)
    np.testing.assert_array_equal(score(variables, padded), want)
  assert moved.min() > 0 and moved.max() > 1e-3


MESHES = {
  "data": MeshShape(data=8),
  "fsdp_tensor": MeshShape(data=2, fsdp=2, tensor=2),
}


@pytest.mark.parametrize("name", MESHES)
@EVERY
def test_a_mesh_computes_what_one_device_does(shape, name):
  config, rows = SHAPES[shape], batch()
  with jax.enable_x64(True):
    model, variables = small.build(config)
    want = small.logp_and_grads(config, variables, rows)
    mesh = mesh_lib.make(MESHES[name])
    shapes = jax.eval_shape(
      model.init, jax.random.key(0), np.zeros((1, 4), np.int32)
    )
    with jax.set_mesh(mesh):
      placed = jax.device_put(variables, axes.shardings(shapes, mesh))
      got = small.logp_and_grads(config, placed, mesh_lib.place(rows, mesh))
    chex.assert_trees_all_close(got, want, atol=1e-11, rtol=1e-9)


def stepped(model, variables, rows=None, pads=0):
  """Logits [4, 1 + STEPS, V] of targets that are written on.

  The mutant: `pads`, the segment of what stands before a source.
  """
  decode = cache_test.decoder(model)
  cache = model.apply(variables, 4, 9, method="open_cache")
  tokens, place, segment = cache_test.padded()
  segment = np.where(segment == 0, pads, segment).astype(np.int32)
  logits, cache = decode(variables, tokens, place, segment, cache)
  out = [logits]
  for token_B in written().T:
    args = token_B[:, None], np.full((4, 1), 99, np.int32)
    ones = np.ones((4, 1), np.int32)
    logits, cache = decode(variables, *args, ones, cache)
    out.append(logits)
  return np.stack(out, 1)


def written():
  r = np.random.default_rng(3)
  return r.integers(0, 16, (4, cache_test.STEPS)).astype(np.int32)


@pytest.mark.parametrize("unroll", [0, 1])
@EVERY
def test_cached_is_uncached(shape, unroll, monkeypatch):
  config = dataclasses.replace(SHAPES[shape], unroll=unroll)
  with jax.enable_x64(True):
    model, variables = small.build(config)
    first = np.full((4, 1), config.start_id, np.int32)
    tokens = np.concatenate([first, written()], 1)
    aligned = np.zeros((4, cache_test.P), np.int32)
    for row, ids, n in zip(
      aligned, cache_test.TOKENS, cache_test.LENGTHS, strict=True
    ):
      row[:n] = ids[:n]
    read = np.arange(cache_test.P)[None] < cache_test.LENGTHS[:, None]
    x_BTD = jax.jit(
      lambda v: model.apply(
        v, tokens, source_BS=aligned, source_segment_BS=read.astype(np.int32)
      )
    )(variables)
    want = np.asarray(model.apply(variables, x_BTD, method="logits"))
    np.testing.assert_allclose(stepped(model, variables), want, atol=1e-11)
    wrong = stepped(model, variables, pads=1)
    assert np.abs(wrong - want).max() > 1e-3
    if shape in small.LISTENING:
      return
    # Mutant: of a source, all layers read what the first one does.
    read_source = crossing.cache_lib.read_source
    first_layer = lambda cache, layer: read_source(cache, layer * 0)
    monkeypatch.setattr(crossing.cache_lib, "read_source", first_layer)
    wrong = stepped(model, variables)
  assert np.abs(wrong - want).max() > 1e-3


def test_several_completions_of_a_source_and_a_cache_that_grows():
  """What is repeated or grown is the target; of a source nothing is added."""
  config = small.APART["t5"]
  model, variables = small.build(config)
  its = model_lib.of_shape(config)
  cache = its.open_cache(variables, 4, 3)
  tokens, place, segment = cache_test.padded()
  _, cache = its.decode(variables, tokens, place, segment, cache)
  grown = its.grow(cache, 5)
  assert grown.segment_BS.shape == (4, 8)
  assert grown.source is cache.source
  wide = its.repeat(cache, 2)
  assert wide.source.segment_BS.shape == (8, cache_test.P)
  np.testing.assert_array_equal(wide.source.keys[0][::2], cache.source.keys[0])


def test_several_completions_of_a_source_that_was_heard_once():
  """Rows of a prompt stand beside each other, and each goes on as one does."""
  config = small.LISTENING["lstm"]
  _, variables = small.build(config)
  its = model_lib.of_shape(config)
  tokens, place, segment = cache_test.padded()
  _, one = its.decode(
    variables, tokens, place, segment, its.open_cache(variables, 4, 3)
  )
  wide = its.grow(its.repeat(one, 2), 5)
  ones = np.ones((4, 1), np.int32)
  go_on = jax.jit(its.decode)
  want, _ = go_on(variables, ones, ones, ones, one)
  twice = np.repeat(ones, 2, 0)
  got, _ = go_on(variables, twice, twice, twice, wide)
  np.testing.assert_allclose(got[::2], want, atol=1e-6)
  np.testing.assert_array_equal(got[::2], got[1::2])
  assert np.abs(got[2:] - got[:-2]).max() > 1e-3


REFUSED = [
  ({"sees": "all"}, "--model.sees=all"),
  ({"window": 4}, "--model.window=4"),
  ({"token_types": 2}, "--model.token_types=2"),
  ({"encoder": Encoder(num_heads=3)}, "--model.encoder.num_heads=3"),
]


@pytest.mark.parametrize("change,said", REFUSED)
def test_what_an_encoder_decoder_is_not(change, said):
  with pytest.raises(ValueError, match=said):
    EncoderDecoderConfig(num_kv_heads=2, **change)


def test_positions_of_a_source_are_no_columns_of_documents():
  assert slots.count(batch()) == 0
  assert slots.count(batch() | {"margin_BS": np.zeros((8, 3))}) == 3


def test_a_batch_without_a_source_is_refused():
  model, variables = small.build(small.APART["t5"])
  with pytest.raises(ValueError, match="reads a source of its own"):
    model.apply(variables, small.causal_batch(), method="score")
