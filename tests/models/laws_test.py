"""Laws of the decoder, in float64, each beside a mutant that it catches."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import trees
from llm_jax.models import heads, presets, sizing, transformer
from tests import small

SHAPES = pytest.mark.parametrize("shape", small.SHAPES)
EVERY = {**small.SHAPES, **small.RECURRENT}
ALL = pytest.mark.parametrize("shape", EVERY)


@ALL
def test_scanned_is_unrolled_and_remat_is_none(shape):
  config, batch = EVERY[shape], small.causal_batch()
  with jax.enable_x64(True):
    _, variables = small.build(config)
    want = small.logp_and_grads(config, variables, batch)
    for change in (
      {"unroll": 0},
      {"remat": "dots", "head_chunk": 5},
      {"remat": "full", "unroll": 2},
    ):
      other = dataclasses.replace(config, **change)
      got = small.logp_and_grads(other, variables, batch)
      chex.assert_trees_all_close(got, want, atol=1e-12, rtol=1e-10)


def test_layers_out_of_order_are_caught():
  """The mutant of scanned = unrolled: the two layers' weights, swapped."""
  batch = small.causal_batch()
  with jax.enable_x64(True):
    _, variables = small.build()
    want = small.logp_and_grads(small.CONFIG, variables, batch)[1]
    blocks = variables["params"]["blocks"]
    variables["params"]["blocks"] = jax.tree.map(lambda x: x[::-1], blocks)
    got = small.logp_and_grads(small.CONFIG, variables, batch)[1]
  assert np.abs(got - want).max() > 1e-3


@SHAPES
def test_packed_is_unpacked(shape):
  """Three documents in one row score as they do alone, gradients included."""
  config = small.SHAPES[shape]
  r = np.random.default_rng(0)
  lengths = [3, 5, 2]
  documents = [r.integers(0, 16, n + 1).astype(np.int32) for n in lengths]
  with jax.enable_x64(True):
    model, variables = small.build(config)
    pad = small.DIMS.T - sum(lengths)
    join = lambda parts: np.concatenate([*parts, np.zeros(pad, np.int32)])[None]
    packed = {
      "tokens_BT": join([d[:-1] for d in documents]),
      "target_BT": join([d[1:] for d in documents]),
      "segment_BT": join([[i + 1] * n for i, n in enumerate(lengths)]),
      "position_BT": join([np.arange(n) for n in lengths]),
    }
    packed = {k: v.astype(np.int32) for k, v in packed.items()}

    def whole(v, batch):
      logp_BT = model.apply(v, batch, method="score").logp_BT
      return logp_BT[:, : sum(lengths)].sum(), logp_BT

    def alone(v, tokens_T, target_T, mask_T):
      row = {"tokens_BT": tokens_T[None], "target_BT": target_T[None]}
      logp_BT = model.apply(v, row, method="score").logp_BT
      return (logp_BT[0] * mask_T).sum()

    def longest(d):  # what follows is not seen
      return np.pad(d, (0, max(lengths) - len(d)))

    run = jax.jit(jax.grad(whole, has_aux=True))
    got, _ = run(variables, packed)
    each = jax.jit(jax.grad(alone))
    wants = [
      each(variables, *map(longest, (d[:-1], d[1:], np.ones(len(d) - 1))))
      for d in documents
    ]
    want = jax.tree.map(lambda *parts: sum(map(np.asarray, parts)), *wants)
    chex.assert_trees_all_close(got, want, atol=1e-11, rtol=1e-9)

    # Mutants: one document seen by the next; places that run on.
    blind = dict(packed, segment_BT=(packed["segment_BT"] > 0).astype(np.int32))
    wrong, _ = run(variables, blind)
    with pytest.raises(AssertionError):
      chex.assert_trees_all_close(wrong, want, atol=1e-3)
    if config.positions == "learned":
      places = np.arange(small.DIMS.T, dtype=np.int32)[None]
      wrong, _ = run(variables, dict(packed, position_BT=places))
      with pytest.raises(AssertionError):
        chex.assert_trees_all_close(wrong, want, atol=1e-3)


@ALL
def test_no_token_sees_a_later_one(shape):
  batch = small.causal_batch()
  later = {k: v.copy() for k, v in batch.items()}
  later["tokens_BT"][:, 6:] = (later["tokens_BT"][:, 6:] + 1) % 16
  with jax.enable_x64(True):
    model, variables = small.build(EVERY[shape])
    score = jax.jit(lambda v, b: model.apply(v, b, method="score").logp_BT)
    a, b = score(variables, batch), score(variables, later)
  np.testing.assert_array_equal(a[:, :6], b[:, :6])
  assert np.abs(a[:, 6:] - b[:, 6:]).max() > 1e-3


def test_a_window_ends_where_it_says():
  config = dataclasses.replace(
    small.CONFIG, num_layers=1, window=4, positions="none"
  )
  batch = small.causal_batch()
  earlier = {k: v.copy() for k, v in batch.items()}
  earlier["tokens_BT"][:, 2] = (earlier["tokens_BT"][:, 2] + 1) % 16
  with jax.enable_x64(True):
    model, variables = small.build(config)
    score = jax.jit(lambda v, b: model.apply(v, b, method="score").logp_BT)
    moved = np.abs(score(variables, batch) - score(variables, earlier)).max(0)
  assert (moved[2:6] > 1e-9).all()  # seen by itself and the next three
  assert (moved[6:] == 0).all()


def test_token_scores_are_the_naive_softmax():
  with jax.enable_x64(True):
    r = np.random.default_rng(0)
    x, w = r.normal(size=(2, 7, 4)), r.normal(size=(4, 9))
    target = r.integers(0, 9, (2, 7))
    logits = 3 * np.tanh(x @ w / 3)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = np.take_along_axis(logp, target[..., None], -1)[..., 0]
    for chunk in (0, 1, 3, 7):
      got = heads.token_scores(
        x, w, target, softcap=3.0, chunk=chunk, entropy=True, hits=True
      )
      np.testing.assert_allclose(got.logp_BT, want, rtol=1e-12)
      np.testing.assert_allclose(
        got.entropy_BT, -(np.exp(logp) * logp).sum(-1), rtol=1e-11
      )
      np.testing.assert_array_equal(got.hit_BT, logp.argmax(-1) == target)
      np.testing.assert_allclose(
        got.logz_BT, np.log(np.exp(logits).sum(-1)), rtol=1e-12
      )


@pytest.mark.parametrize(
  "name",
  [
    "tiny",
    "nano_shakespeare",
    "gpt2_124m",
    "llama3_1b",
    "llama3_8b",
    "llama3_70b",
    "qwen3_0_6b",
    "tiny_moe",
    "mixtral_8x7b",
    "qwen3_30b_a3b",
  ],
)
def test_sizing_counts_the_real_tree(name):
  config = getattr(presets, name)()
  config = dataclasses.replace(config, vocab_size=config.vocab_size or 65)
  model = transformer.Decoder(config)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32)
  )
  assert sizing.parameters(config).total == trees.size(shapes)


def test_sizing_knows_published_counts():
  total = lambda name: sizing.parameters(getattr(presets, name)()).total
  assert total("gpt2_124m") == 124_439_808
  assert total("llama3_1b") == 1_235_814_400
  assert total("llama3_8b") == 8_030_261_248
  assert total("llama3_70b") == 70_553_706_496
  assert total("qwen3_0_6b") == 596_049_920
  assert total("bert_base") == 109_514_298  # as BertForMaskedLM
  assert total("mixtral_8x7b") == 46_702_792_704
  assert total("qwen3_30b_a3b") == 30_532_122_624


@ALL
def test_sizing_counts_every_shape(shape):
  _, variables = small.build(EVERY[shape])
  config = EVERY[shape]
  assert sizing.parameters(config).total == trees.size(variables)
  experts = getattr(config, "experts", None)
  meets = lambda path: (  # the part of a parameter that a token meets
    experts.per_token / experts.num if "mlp" in path and experts.num else 1
  )
  kernels = sum(
    x.size * meets(p) for p, x in trees.paths(variables) if p.endswith("kernel")
  ) + sum(x.size for p, x in trees.paths(variables) if p.endswith("router"))
  head = (small.DIMS.V + config.outputs) * small.DIMS.D
  assert sizing.parameters(config).matmul == kernels + head


def test_flops_by_both_conventions():
  gpt2 = presets.gpt2_124m()
  flops = sizing.flops_per_token(gpt2, 1024)
  P = sizing.parameters(gpt2).matmul
  assert flops.full == 6 * P + 12 * 12 * 12 * 64 * 1024
  assert flops.causal == 6 * P + 12 * 12 * 12 * 64 * (1024 + 1) / 2
  near = dataclasses.replace(gpt2, window=2)
  assert sizing.flops_per_token(near, 4).causal == (
    6 * P + 12 * 12 * 12 * 64 * (1 + 2 + 2 + 2) / 4
  )


def test_a_row_longer_than_the_model_is_an_error():
  model, variables = small.build()
  with pytest.raises(ValueError, match="--model.max_length=32"):
    model.apply(variables, jnp.zeros((1, 33), jnp.int32))
