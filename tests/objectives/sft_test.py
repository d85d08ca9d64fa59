"""Instruction tuning is its naive loop, in float64: one conversation at a
time, one answer at a time, however rows are packed and batches cut."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import optax
import pytest

from llm_jax.data import chat, conversation_tokens
from llm_jax.data.batches import Finite
from llm_jax.data.packing import BestFit
from llm_jax.data.tokens import Tokens
from llm_jax.objectives.causal import Causal
from llm_jax.tokenizers.bytes import ByteTokenizer
from llm_jax.training import state as state_lib
from llm_jax.training import step as step_lib
from tests import small
from tests.data.chats import talk

T, B = 24, 8
TOKENIZER = ByteTokenizer()
TALKS = [
  talk("a", "bc"),
  talk("hi", "", "no", "yes!"),  # several turns, one answer empty
  talk("x", "y", "z", "w", "v", "u", system="s"),
  talk("long", "er answer"),
  talk("", "q"),
]
OBJECTIVES = [
  Causal(),
  Causal(z_loss=0.1, prompt_weight=0.3),
  Causal("sequence"),
  Causal("sequence", prompt_weight=2.0),
]


def batch(alone=False, talks=TALKS, **changes):
  """The one batch that holds all conversations."""
  encoded = [chat.render(c.messages, TOKENIZER) for c in talks]
  ids = np.concatenate([e.ids for e in encoded])
  trained = np.concatenate([e.trained for e in encoded])
  offsets = np.cumsum([0, *(len(e.ids) for e in encoded)])
  tokens = Tokens(ids, offsets, TOKENIZER.eos_id, trained)
  fitted = conversation_tokens.fit(tokens, T, drop=True)
  assert not fitted.num_long
  (only,) = Finite(BestFit(tokens, T, None, fitted.pieces, alone), B)
  return only | changes


def by_hand(conversation):
  """Ids, and which are trained, without a template or a packing."""
  role = TOKENIZER.role_ids
  ids, trained = [], []
  for m in conversation.messages:
    said = [*TOKENIZER.encode(m.content), role["end"]]
    ids += [role[m.role], *said]
    trained += [False] + [m.role == "assistant"] * len(said)
  return ids, trained


@functools.cache
def model():
  config = dataclasses.replace(
    small.CONFIG, num_layers=1, embed_dim=8, mlp_dim=8, vocab_size=268
  )
  return small.build(config)


def naive(objective):
  """(loss, gradient), conversation by conversation, target by target."""
  weights = []
  for _, trained in map(by_hand, TALKS):
    mine = [1.0 if t else objective.prompt_weight for t in trained]
    weights.append(mine)
  if objective.average == "sequence":
    scale = [1 / sum(mine) / len(TALKS) for mine in weights]
  else:
    scale = [1 / sum(map(sum, weights))] * len(TALKS)
  weights = [
    np.array(mine) * each for mine, each in zip(weights, scale, strict=True)
  ]
  found = [
    one()(model()[1], by_hand(c)[0], mine, objective.z_loss)
    for c, mine in zip(TALKS, weights, strict=True)
  ]
  return jax.tree.map(lambda *each: sum(map(np.asarray, each)), *found)


@functools.cache
def one():
  """(variables, ids, weights, z_loss) -> loss and gradient of one talk."""
  score = small.score_fn(model()[0])

  def loss(variables, tokens_T, target_T, weight_T, z_loss):
    row = {"tokens_BT": tokens_T[None], "target_BT": target_T[None]}
    scores = score(variables, row)
    nats_T = -scores.logp_BT[0] + z_loss * scores.logz_BT[0] ** 2
    return (weight_T * nats_T).sum()

  run = jax.jit(jax.value_and_grad(loss))

  def padded(variables, ids, weights, z_loss):  # what follows is not seen
    pad = [0] * (T - len(ids))
    tokens_T = np.array([TOKENIZER.eos_id, *ids[:-1], *pad])
    weight_T = np.array([*weights, *pad], float)
    return run(variables, tokens_T, np.array([*ids, *pad]), weight_T, z_loss)

  return padded


def ours(objective, batch, microbatches=1):
  """(loss, gradient) of a step."""
  decoder, variables = model()
  optimizer = optax.sgd(1.0)
  state = state_lib.create(
    {"policy": variables}, lambda path: True, optimizer, jax.random.key(0)
  )
  after, metrics = compiled(objective, microbatches)(state, batch)
  gradient = jax.tree.map(np.subtract, variables, after.trainable["policy"])
  return metrics["loss"].compute(), gradient


@functools.cache
def compiled(objective, microbatches):
  return jax.jit(
    functools.partial(
      step_lib.train_step,
      objective=objective,
      forward={"policy": small.score_fn(model()[0])},
      optimizer=optax.sgd(1.0),
      microbatches=microbatches,
    )
  )


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_packed_and_cut_in_any_way_it_is_the_naive_loop(objective):
  want = naive(objective)
  cuts = (1, 2, 8) if objective == Causal() else (2,)
  for alone in (False, True):
    for microbatches in cuts:
      got = ours(objective, batch(alone), microbatches)
      chex.assert_trees_all_close(got, want, atol=1e-11, rtol=0)


def test_rows_are_packed_at_all():
  packed, alone = batch(), batch(alone=True)
  rows = lambda b: int(b["mask_BT"].any(1).sum())
  assert rows(alone) == len(TALKS) and rows(packed) < len(TALKS)
  assert packed["segment_BT"].max() > 1 == alone["segment_BT"].max()
  stops = packed["target_BT"] == TOKENIZER.role_ids["end"]
  answers = sum(m.role == "assistant" for c in TALKS for m in c.messages)
  assert (stops & packed["mask_BT"]).sum() == answers


def mutants():
  b = batch()
  stops = b["target_BT"] == TOKENIZER.role_ids["end"]
  real = b["segment_BT"] > 0
  return {
    "no stop token": {"mask_BT": b["mask_BT"] & ~stops},
    "every stop token": {"mask_BT": b["mask_BT"] | (stops & real)},
    "prompt trained": {"mask_BT": real},
    "one segment": {"segment_BT": real.astype(np.int32)},
    "a mask one late": {"mask_BT": np.roll(b["mask_BT"], 1, axis=1)},
  }


@pytest.mark.parametrize("name", mutants())
def test_mutants_are_caught(name):
  want, _ = naive(Causal())
  value, _ = ours(Causal(), batch(**mutants()[name]))
  assert abs(value - want) > 1e-4
  value, _ = ours(Causal(), batch())
  assert abs(value - want) < 1e-11


def test_mutant_a_mean_of_means_is_caught():
  want, _ = naive(Causal())
  b = batch()
  parts = [{k: v[i::8] for k, v in b.items()} for i in range(8)]
  parts = [p for p in parts if p["mask_BT"].any()]
  values = [
    ours(Causal(), {k: np.repeat(v, B, 0) for k, v in p.items()})[0]
    for p in parts
  ]
  assert abs(np.mean(values) - want) > 1e-4


def test_prompt_weight_is_off_by_default_and_needs_prompts():
  b = batch()
  weight = lambda objective, b: np.asarray(objective.weigh(b)["weight_BT"])
  np.testing.assert_array_equal(weight(Causal(), b) > 0, b["mask_BT"])
  both = weight(Causal(prompt_weight=0.5), b)
  np.testing.assert_allclose(both.sum(), 1)
  counted = b["mask_BT"] | b["prompt_BT"]
  np.testing.assert_array_equal(both > 0, counted)
  assert not (b["mask_BT"] & b["prompt_BT"]).any()
  np.testing.assert_allclose(both[b["prompt_BT"]], both[b["mask_BT"]].max() / 2)
  without = {k: v for k, v in b.items() if k != "prompt_BT"}
  np.testing.assert_array_equal(
    weight(Causal(prompt_weight=0.5), without), weight(Causal(), b)
  )
