"""Laws of recurrent models, in float64, each beside a mutant it catches."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import model as model_lib
from llm_jax import trees
from llm_jax.models import sizing
from llm_jax.ops import recurrence
from tests import small
from tests.models import cache_test

SHAPES = {
  **small.RECURRENT,
  "lstm_norm": dataclasses.replace(
    small.RECURRENT["lstm"],
    norm="rms",
    residual=True,
    outputs=1,
    logit_softcap=5.0,
  ),
}
EVERY = pytest.mark.parametrize("shape", SHAPES)


@functools.cache
def built(shape, prompt=0):
  """(model, variables) in float64, where x64 is on; with a soft prompt."""
  assert jax.config.jax_enable_x64
  config = dataclasses.replace(SHAPES[shape], dtype="float64")
  model, variables = small.build(config)
  if prompt:
    r = np.random.default_rng(7)
    prompt_XD = r.normal(size=(prompt, small.DIMS.D))
    variables = {**variables, "adapters": {"prompt": jnp.array(prompt_XD)}}
  return model, variables


LENGTHS = [3, 5, 2]


def packed(reset_late=False, leaks=False):
  """Documents in one row, with padding between two of them and at the end."""
  r = np.random.default_rng(0)
  documents = [r.integers(0, 16, n + 1).astype(np.int32) for n in LENGTHS]
  zero, segments = (
    np.zeros(1, np.int32),
    [[i + 1] * n for i, n in enumerate(LENGTHS)],
  )

  def join(parts):
    parts = [*parts[:2], zero, parts[2], zero]
    return np.concatenate(parts)[None].astype(np.int32)

  segment_BT = join(segments)
  if leaks:
    segment_BT = (segment_BT > 0).astype(np.int32)
  if reset_late:
    segment_BT = np.where(segment_BT > 0, np.roll(segment_BT, 1), 0)
    segment_BT[0, 0] = 1
  row = {
    "tokens_BT": join([d[:-1] for d in documents]),
    "target_BT": join([d[1:] for d in documents]),
    "segment_BT": segment_BT,
  }
  return documents, row, join([[1] * n for n in LENGTHS])


@pytest.mark.parametrize("prompt", [0, 2])
@EVERY
def test_packed_is_apart(shape, prompt):
  """Documents of one row score as they do alone, all gradients included."""
  documents, row, mask_BT = packed()
  with jax.enable_x64(True):
    model, variables = built(shape, prompt)

    def whole(v, batch):
      return (model.apply(v, batch, method="score").logp_BT * mask_BT).sum()

    def alone(v, tokens_T, target_T, mask_T):
      batch = {"tokens_BT": tokens_T[None], "target_BT": target_T[None]}
      logp_BT = model.apply(v, batch, method="score").logp_BT
      return (logp_BT[0] * mask_T).sum()

    longest = lambda d: np.pad(d, (0, max(LENGTHS) - len(d)))
    each = jax.jit(jax.grad(alone))
    wants = [
      each(variables, *map(longest, (d[:-1], d[1:], np.ones(len(d) - 1))))
      for d in documents
    ]
    want = jax.tree.map(lambda *parts: sum(map(np.asarray, parts)), *wants)
    run = jax.jit(jax.grad(whole))
    chex.assert_trees_all_close(
      run(variables, row), want, atol=1e-11, rtol=1e-9
    )
    for mutant in ({"leaks": True}, {"reset_late": True}):
      wrong = run(variables, packed(**mutant)[1])
      with pytest.raises(AssertionError):
        chex.assert_trees_all_close(wrong, want, atol=1e-3)


def stepped(model, variables, *, parts=(cache_test.P,), pads=0):
  """Logits [4, 1 + STEPS, V]: after prompts, then a token at a time.

  The mutant: `pads`, the segment of what stands before a prompt.
  """
  decode = cache_test.decoder(model)
  state = model.apply(variables, 4, 99, method="open_cache")
  tokens, place, segment = cache_test.padded()
  segment = np.where(segment == 0, pads, segment).astype(np.int32)
  out, start = [], 0
  for n in parts:
    at = np.s_[:, start : start + n]
    logits, state = decode(variables, tokens[at], place[at], segment[at], state)
    start += n
  out.append(logits)
  for i in range(cache_test.STEPS):
    at = (cache_test.LENGTHS + i).astype(np.int32)
    token = cache_test.TOKENS[np.arange(4), at][:, None]
    ones = np.ones((4, 1), np.int32)
    logits, state = decode(variables, token, at[:, None], ones, state)
    out.append(logits)
  return np.stack(out, 1)


@pytest.mark.parametrize("prompt", [0, 2])
@EVERY
def test_a_state_goes_on_where_the_text_stood(shape, prompt):
  """Decoding, padding before the prompts = the full forward."""
  with jax.enable_x64(True):
    model, variables = built(shape, prompt)
    full = cache_test.full(model.config, model, variables)
    want = cache_test.expected(full)
    got = stepped(model, variables)
    np.testing.assert_allclose(got, want, atol=1e-11)
    cut = stepped(model, variables, parts=(1, 3, 2))
    np.testing.assert_allclose(cut, want, atol=1e-11)
    wrong = stepped(model, variables, pads=1)  # mutant: padding is read
  assert np.abs(wrong - want).max() > 1e-3


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_loop_is_the_plain_one_and_so_are_its_gradients(cell):
  """Beside a loop that JAX differentiates itself."""
  cut = {"lstm": recurrence.lstm, "gru": recurrence.gru}[cell]
  B, T, J, A = 2, 5, 4 if cell == "lstm" else 3, 3
  r = np.random.default_rng(0)
  reset_BT, hold_BT = r.random((2, B, T)) < 0.3
  with jax.enable_x64(True):
    draw = lambda *shape: jnp.array(r.normal(size=shape))
    initial = tuple(draw(B, A) for _ in range(2 if cell == "lstm" else 1))
    given = draw(B, T, J, A), draw(A, J, A), draw(J, A), initial
    weight_BTA, last = draw(B, T, A), jax.tree.map(jnp.ones_like, initial)

    def plain(x_BTJA, kernel_DJA, bias_JA, initial):
      state, out = initial, []
      for t in range(T):
        chosen = lambda m, a, b: jax.tree.map(
          lambda x, y: jnp.where(m[:, None], x, y), a, b
        )
        state = chosen(reset_BT[:, t], initial, state)
        h_BJA = jnp.einsum("bd,dja->bja", state[0], kernel_DJA) + bias_JA
        state = chosen(hold_BT[:, t], state, cut(x_BTJA[:, t], h_BJA, state))
        out.append(state[0])
      return jnp.stack(out, 1), state

    def ours(*given):
      states = recurrence.run(cut, *given, reset_BT, hold_BT)
      return states[0], tuple(s[:, -1] for s in states)

    def summed(f):
      def loss(given):
        h_BTA, end = f(*given)
        ends = sum((a * b).sum() for a, b in zip(end, last, strict=True))
        return (h_BTA * weight_BTA).sum() + ends

      return jax.jit(jax.value_and_grad(loss))

    want, got = summed(plain)(given), summed(ours)(given)
  chex.assert_trees_all_close(got, want, rtol=1e-12, atol=1e-13)


@EVERY
def test_sizing_counts_the_real_tree_and_the_state(shape):
  config = SHAPES[shape]
  with jax.enable_x64(True):
    model, variables = built(shape)
    assert sizing.parameters(config).total == trees.size(variables)
    flops = sizing.flops_per_token(config, 64)
    assert flops.full == flops.causal == 6 * sizing.parameters(config).matmul
    state = model.apply(variables, 4, 9, method="open_cache")
  held = sum(x.size * x.dtype.itemsize for x in state)
  assert sizing.cache_bytes(model.config, 4, 9) == held


def test_a_forget_gate_begins_open():
  config = dataclasses.replace(SHAPES["lstm"], forget_bias=0.7)
  params = model_lib.of_shape(config).init(jax.random.key(0))["params"]
  bias_LJA = params["blocks"]["input"]["bias"].value
  want = np.zeros((2, 4, small.DIMS.D))
  want[:, 1] = 0.7
  np.testing.assert_allclose(bias_LJA, want, rtol=1e-6)


@pytest.mark.parametrize("cell", small.RECURRENT)
def test_what_a_cell_remembers_is_no_half(cell):
  """In bfloat16 an LSTM's memory is float32, and gradients are finite."""
  config = dataclasses.replace(small.RECURRENT[cell], dtype="bfloat16")
  model, variables = small.build(config)
  state = model.apply(variables, 1, 1, method="open_cache")
  assert [s.dtype.name for s in state] == ["bfloat16", "float32"][: len(state)]
  batch = small.causal_batch()
  grads, _ = small.logp_and_grads(config, variables, batch, "bfloat16")
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
