"""Laws of stacks that see more than what came before, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.models import seeing
from llm_jax.ops import masks
from tests import small

ENCODERS = {
  "bert": dataclasses.replace(
    small.CONFIG,
    sees="all",
    norm="layer",
    norm_bias=True,
    norm_at="sum",
    embed_norm=True,
    positions="learned",
    position_offset=2,
    token_types=2,
    activation="gelu_exact",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    num_kv_heads=0,
    head_dense=True,
    head_bias=True,
  ),
  "modernbert": dataclasses.replace(
    small.CONFIG,
    sees="all",
    norm="layer",
    embed_norm=True,
    first_norm=False,
    activation="geglu_exact",
    window=4,
    window_theta=50.0,
    full_layers=(0,),
    head_dense=True,
    head_dense_bias=False,
    head_bias=True,
  ),
  "t5": dataclasses.replace(
    small.CONFIG,
    sees="all",
    positions="relative",
    relative_buckets=8,
    relative_distance=6,
    attention_scale=1.0,
    activation="relu",
  ),
}
KINDS = pytest.mark.parametrize("kind", ENCODERS)
LENGTHS = [3, 5, 2]
R = np.random.default_rng(0)
DOCUMENTS = [R.integers(0, 16, n).astype(np.int32) for n in LENGTHS]
TYPES = [(np.arange(n) > 1).astype(np.int32) for n in LENGTHS]


def row(documents, types=None):
  """Documents in one row, with a padding of two."""
  pad = np.zeros(2, np.int32)
  join = lambda parts: np.concatenate([*parts, pad])[None].astype(np.int32)
  lengths = [len(d) for d in documents]
  return {
    "tokens_BT": join(documents),
    "target_BT": join([(d + 3) % 16 for d in documents]),
    "segment_BT": join([[i + 1] * n for i, n in enumerate(lengths)]),
    "position_BT": join([np.arange(n) for n in lengths]),
    "type_BT": join(types or TYPES),
  }


def logp_and_grads(model, variables, batch, count):
  weight = np.linspace(0.5, 1.5, sum(LENGTHS))[:count]

  def loss(v):
    logp_BT = model.apply(v, batch, method="score").logp_BT
    return (logp_BT[0, :count] * weight).sum(), logp_BT[0, :count]

  return jax.jit(jax.grad(loss, has_aux=True))(variables)


@KINDS
@pytest.mark.parametrize("unroll", [0, 1])
def test_packed_is_apart(kind, unroll):
  """Of an encoder, too, in values and all gradients."""
  config = dataclasses.replace(ENCODERS[kind], unroll=unroll)
  with jax.enable_x64(True):
    model, variables = small.build(config)
    grads, logp = logp_and_grads(model, variables, row(DOCUMENTS), 10)
    weight, at, want = np.linspace(0.5, 1.5, 10), 0, None
    for document, types in zip(DOCUMENTS, TYPES, strict=True):
      batch, n = row([document], [types]), len(document)

      def loss(v, batch=batch, n=n, at=at):
        its = model.apply(v, batch, method="score").logp_BT[0, :n]
        return (its * weight[at : at + n]).sum(), its

      more, alone = jax.jit(jax.grad(loss, has_aux=True))(variables)
      np.testing.assert_allclose(logp[at : at + n], alone, atol=1e-11)
      want = more if want is None else jax.tree.map(np.add, want, more)
      at += n
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), grads, want
  )


@KINDS
def test_every_token_sees_every_other(kind):
  """As far as a window lets it; of a decoder none sees a later one."""
  config = dataclasses.replace(ENCODERS[kind], num_layers=1)
  if config.window:
    config = dataclasses.replace(config, full_layers=())
  with jax.enable_x64(True):
    model, variables = small.build(config)

    def first(batch):
      return model.apply(variables, batch["tokens_BT"])[0]

    def moved(at, mutant=None):
      tokens = R.integers(0, 16, (1, 10)).astype(np.int32)
      other = tokens.copy()
      other[0, at] = (other[0, at] + 1) % 16
      a, b = (first({"tokens_BT": t}) for t in (tokens, other))
      return np.abs(a - b).max(-1) > 1e-9

    seen_by = moved(6)
  reach = config.window // 2 if config.window else 10
  want = np.abs(np.arange(10) - 6) <= reach
  np.testing.assert_array_equal(seen_by, want)


@pytest.mark.parametrize("is_mutant", [False, True])
def test_what_follows_a_completion_is_not_seen(is_mutant, monkeypatch):
  """Rows of a prompt and a completion, of 4 and 6 tokens, in any width."""
  if is_mutant:
    monkeypatch.setattr(seeing, "completions", lambda batch: None)
  at, end = np.arange(9), np.array([[4], [6]])
  prompt, completion = at < end - 2, (at >= end - 2) & (at < end)
  tokens = R.integers(0, 16, (2, 9)).astype(np.int32)
  with jax.enable_x64(True):
    model, variables = small.build(ENCODERS["bert"])
    apply = jax.jit(lambda v, b: model.apply(v, b, method="hidden")[-1])

    def of(width):
      columns = {"prompt_BT": prompt, "mask_BT": completion}
      its = {"tokens_BT": tokens, **columns}
      return apply(variables, {k: x[:, :width] for k, x in its.items()})

    found, narrow = of(9), of(6)
    alone = apply(variables, {"tokens_BT": tokens[:1, :4]})
  worst = max(
    np.abs(found[:1, :4] - alone).max(),
    np.abs(found[1, :6] - narrow[1]).max(),
  )
  assert (worst > 1e-3) if is_mutant else (worst < 1e-12)


def test_kinds_of_token_tell():
  """And without them, all are of the first kind."""
  with jax.enable_x64(True):
    model, variables = small.build(ENCODERS["bert"])
    batch = row(DOCUMENTS)
    score = lambda b: model.apply(variables, b, method="score").logp_BT
    with_types = score(batch)
    none = score({k: v for k, v in batch.items() if k != "type_BT"})
    zero = score({**batch, "type_BT": 0 * batch["type_BT"]})
  np.testing.assert_array_equal(none, zero)
  assert np.abs(with_types - none).max() > 1e-3


def prompts():
  """Two documents in a row; the first 2 and 3 tokens of which are prompts."""
  segment = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 2, 0]], np.int32)
  position = np.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0]], np.int32)
  # True where the next token is part of the prompt.
  prompt = np.array([[1, 0, 0, 0, 1, 1, 0, 0, 0, 0]], bool)
  return segment, position, prompt


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma", "relative"])
def test_a_prompt_sees_itself_whole(shape):
  segment, position, prompt = prompts()
  config = dataclasses.replace(
    small.SHAPES[shape],
    sees="prefix",
    num_layers=1,
    full_layers=(),
    window=None,
    window_theta=None,
  )
  with jax.enable_x64(True):
    model, variables = small.build(config)
    apply = jax.jit(model.apply)

    def seen_by(at, **given):
      tokens = R.integers(0, 16, (1, 10)).astype(np.int32)
      other = tokens.copy()
      other[0, at] = (other[0, at] + 1) % 16
      its = {"segment_BT": segment, "position_BT": position, **given}
      a, b = (apply(variables, t, **its)[0] for t in (tokens, other))
      return np.flatnonzero(np.abs(a - b).max(-1) > 1e-9).tolist()

    assert seen_by(1, prompt_BT=prompt) == [0, 1, 2, 3]
    assert seen_by(2, prompt_BT=prompt) == [2, 3]
    assert seen_by(6, prompt_BT=prompt) == [4, 5, 6, 7, 8]
    assert seen_by(7, prompt_BT=prompt) == [7, 8]
    assert seen_by(1) == [1, 2, 3]  # without prompts it is causal


@pytest.mark.parametrize("shape", ["llama", "gemma", "relative"])
@pytest.mark.parametrize("unroll", [0, 1])
def test_what_is_drawn_after_a_prompt_is_what_is_scored(shape, unroll):
  """The cache's prompt sees itself whole, as the forward's does."""
  config = dataclasses.replace(
    small.SHAPES[shape], sees="prefix", unroll=unroll, window=None,
    full_layers=(), window_theta=None,
  )  # fmt: skip
  tokens = R.integers(0, 16, (1, 9)).astype(np.int32)
  prompt = (np.arange(9) < 3)[None]  # the first four
  with jax.enable_x64(True):
    model, variables = small.build(config)
    x_BTD = model.apply(variables, tokens, prompt_BT=prompt)
    want = model.apply(variables, x_BTD, method="logits")[0]
    cache = model.apply(variables, 1, 9, method="open_cache")
    decode = jax.jit(lambda *a: model.apply(variables, *a, method="decode"))
    at = np.arange(9, dtype=np.int32)[None]
    ones = np.ones((1, 9), np.int32)
    logits, cache = decode(tokens[:, :4], at[:, :4], ones[:, :4], cache)
    got = [logits[0]]
    for i in range(4, 9):
      its = np.s_[:, i : i + 1]
      logits, cache = decode(tokens[its], at[its], ones[its], cache)
      got.append(logits[0])
  np.testing.assert_allclose(np.stack(got), want[3:], atol=1e-11)


def test_a_prefix_that_leaks_into_the_next_document_is_caught(monkeypatch):
  """The mutant: whoever is of a prompt sees all prompts of the row."""
  segment, position, prompt = prompts()
  config = dataclasses.replace(small.CONFIG, sees="prefix")
  tokens = R.integers(0, 16, (1, 10)).astype(np.int32)
  its = {
    **{"segment_BT": segment, "position_BT": position, "prompt_BT": prompt}
  }

  def mutant(query, key, *args, **kwargs):
    return real(0 * query + 1, 0 * key + 1, *args, **kwargs)

  real = masks.attention_mask
  with jax.enable_x64(True):
    model, variables = small.build(config)
    want = model.apply(variables, tokens, **its)
    monkeypatch.setattr(masks, "attention_mask", mutant)
    got = model.apply(variables, tokens, **its)
  assert np.abs(got - want)[0, :9].max() > 1e-3


def every_prompt(prompt_BT, segment_BT, virtual):
  """The mutant: a later prompt is seen from the first, too."""
  del segment_BT, virtual
  if prompt_BT is None:
    return None
  return prompt_BT | jnp.pad(prompt_BT, ((0, 0), (1, 0)))[:, :-1]


@pytest.mark.parametrize("is_mutant", [False, True])
def test_no_answer_is_told_by_a_later_prompt(is_mutant, monkeypatch):
  """Prompt, answer, prompt, answer, three tokens each."""
  if is_mutant:
    monkeypatch.setattr(seeing, "prompts", every_prompt)
  config = dataclasses.replace(small.CONFIG, sees="prefix", num_layers=3)
  prompt = np.tile(np.repeat([True, False], 3), 2)[None]
  tokens = R.integers(0, 16, (1, 12)).astype(np.int32)
  other = tokens.copy()
  other[0, 6] = (other[0, 6] + 1) % 16  # the end of the first answer
  with jax.enable_x64(True):
    model, variables = small.build(config)
    apply = jax.jit(model.apply)
    a, b = (apply(variables, t, prompt_BT=prompt)[0] for t in (tokens, other))
  told = np.abs(a - b).max(-1)[:6].max()  # to what comes before it
  assert (told > 1e-3) if is_mutant else (told == 0)
