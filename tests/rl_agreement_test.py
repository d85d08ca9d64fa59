"""What was drawn is scored as it was drawn, by every kind of decoder.

Three ways to one number: the sampler's, a token at a time on the cache, with
prompts on the right; the forward's, of whole rows; and that of plain products
on rows without any padding.

Dimension key: B completions; P prompt places; T positions; V vocabulary.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from llm_jax import axes, reinforcing
from llm_jax import model as model_lib
from llm_jax.experiment import Experiment
from llm_jax.generation.rollouts import Rollouts
from llm_jax.objectives.ppo import PPO
from llm_jax.ops.sampling import Sampler
from llm_jax.peft.sites import Base
from llm_jax.tokenizers.bytes import Bytes
from tests import small
from tests.models import cache_test
from tests.peft import furniture

B, P, N = 6, 6, 5
T = P + N - 1
# 0 is what padding is, too: a stop id counts all the same.
STOP = (0, 5)
SHAPES = cache_test.SHAPES
ADAPTERS = ("lora", "prompt_random", "prefix")
TEMPERATURE = Sampler(temperature=0.7)
FILTERED = Sampler(temperature=1.3, top_k=9, top_p=0.9)
CASES = [
  *[(shape, "", TEMPERATURE) for shape in SHAPES],
  *[("llama", name, TEMPERATURE) for name in ADAPTERS],
  ("window", "", FILTERED),
]


def short(x):
  return f"T={x.temperature}" if isinstance(x, Sampler) else x


class Drawn(NamedTuple):
  """Completions, and who says what of them."""

  model: model_lib.Model
  variables: Any
  batch: Any  # drawn and scored, on the host
  score: Any  # batch -> what all roles say of it, on the host
  lengths: np.ndarray  # of prompts


def build(shape, adapters, dtype):
  config = dataclasses.replace(SHAPES[shape], outputs=1, dtype=dtype)
  _, variables = small.build(config)
  model = model_lib.of_shape(config)
  if adapters:
    method, _ = furniture.METHODS[adapters]
    suffixes = axes.suffixes(
      jax.eval_shape(model.init, jax.random.key(0))["params"]
    )
    given = Base(
      variables["params"], suffixes, jax.random.key(1), furniture.encode
    )
    its = furniture.drawn(axes.unbox(method.add(given)))
    variables = {**variables, "adapters": its}
  return model, variables


@functools.cache
def draw(shape, adapters="", sampler=TEMPERATURE, dtype="float64"):
  model, variables = build(shape, adapters, dtype)
  experiment = Experiment(
    model=model.shape,
    objective=PPO(critic="shared"),
    tokenizer=Bytes(),
    rollouts=Rollouts(batch=B, max_new_tokens=N, sampler=sampler),
  )
  its = reinforcing.functions(experiment, model, STOP)
  base = {"params": variables["params"]}
  roles = {"policy": variables, "reference": base}
  r = np.random.default_rng(0)
  lengths = np.array([1, 6, 3, 2, 5, 4], np.int32)
  prompts = {
    "prompt_BP": r.integers(1, small.DIMS.V, (B, P)).astype(np.int32),
    "length_B": lengths,
  }
  batch = jax.device_get(its.draw(roles, prompts, jax.random.key(0)))
  score = lambda rows: jax.device_get(its.score(roles, rows))
  return Drawn(model, variables, batch | score(batch), score, lengths)


def moved(rows, places_B):
  """Rows, each turned to the left by so many places."""
  at_BT = (np.arange(T) + places_B[:, None]) % T
  return {
    name: np.take_along_axis(x, at_BT, 1) if x.ndim == 2 else x
    for name, x in rows.items()
  }


def left(drawn):
  """Rows that begin at place 0, and what was before them after them."""
  return moved(drawn.batch, P - drawn.lengths)


@functools.cache
def applied(config):
  return jax.jit(model_lib.transformer.Decoder(config).apply)


def logits(drawn, rows):
  """Of every next token, [B, T, V], by plain products."""
  config, params = drawn.model.shape, drawn.variables["params"]
  x_BTD = np.asarray(applied(config)(drawn.variables, rows["tokens_BT"]))
  if getattr(config, "head_dense", False):
    x_BTD = _dense(x_BTD, params)
  head = params["embedding"].T if config.tied else params["head"]
  logits_BTV = x_BTD @ np.asarray(head) + np.asarray(params.get("head_bias", 0))
  cap = config.logit_softcap
  return cap * np.tanh(logits_BTV / cap) if cap else logits_BTV


def _dense(x_BTD, params):
  """A dense map, GELU and an RMSNorm, as a masked head begins."""
  dense = params["head_dense"]
  y_BTD = x_BTD @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
  y_BTD *= (1 + np.vectorize(math.erf)(y_BTD / 2**0.5)) / 2
  y_BTD /= np.sqrt((y_BTD**2).mean(-1, keepdims=True) + 1e-5)
  return y_BTD * np.asarray(params["head_norm"]["scale"])


def logp(logits_BTV, rows, sampler):
  """Of each drawn token, in the distribution that it was drawn from."""
  found = []
  for b, t in np.argwhere(rows["mask_BT"]):
    z = logits_BTV[b, t] / sampler.temperature
    order = np.argsort(-z)[: sampler.top_k or None]
    p = np.exp(z[order] - z.max())
    p /= p.sum()
    kept = order[np.cumsum(p) - p < sampler.top_p]
    token = rows["target_BT"][b, t]
    assert token in kept
    found.append(z[token] - np.log(np.exp(z[kept]).sum()))
  return np.array(found)


def of_drawn(rows, name):
  return rows[name][rows["mask_BT"]]


close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("shape", "adapters", "sampler"), CASES, ids=short)
def test_sampler_and_forward_say_the_same(shape, adapters, sampler):
  """Details 2 and 3 of RL, 1 of its layout."""
  with jax.enable_x64(True):
    drawn = draw(shape, adapters, sampler)
    found, turned = drawn.batch, left(drawn)
    said = of_drawn(found, "sampled_logp_BT")
    scored = of_drawn(found, "old_logp_BT")
    # Rows on the left are scored as rows on the right are.
    again = turned | drawn.score(turned)
    for name in ("old_logp_BT", "ref_logp_BT", "old_value_BT"):
      close(of_drawn(again, name), of_drawn(found, name))
    # The mutant of the layout: padding before a prompt is text.
    text = np.ones_like(found["segment_BT"])
    wrong = found | drawn.score({**found, "segment_BT": text})
    # Who sees itself alone does not see padding.
    least = 0 if shape == "window_of_one" else 1e-3
    assert np.abs(of_drawn(wrong, "old_logp_BT") - scored).max() >= least
    if not adapters:
      of_left = logits(drawn, turned)
      close(logp(of_left, turned, sampler), said)
      plain = Sampler(temperature=sampler.temperature)
      close(logp(of_left, turned, plain), scored)
      # The reference's temperature is the policy's.
      close(of_drawn(found, "ref_logp_BT"), scored)
      # The mutant: scored at temperature 1.
      wrong = logp(of_left, turned, Sampler())
      assert np.abs(wrong - scored).max() > 1e-2
  if sampler == TEMPERATURE:
    close(said, scored)
  else:  # filters add to the probabilities of what they keep
    assert (said >= scored - 1e-9).all() and (said > scored + 1e-3).any()
  for row in rows_of(found):
    ids = row["target_BT"][row["mask_BT"]].tolist()
    assert len(ids) == N or ids[-1] in STOP


def test_a_stop_id_that_is_the_padding_too_counts():
  """Mistake 4: masks made of ids leave the end of a completion out."""
  with jax.enable_x64(True):
    drawn = draw("llama").batch
  last_B = [r["target_BT"][r["mask_BT"]][-1] for r in rows_of(drawn)]
  assert 0 in last_B
  mutant_BT = drawn["mask_BT"] & (drawn["target_BT"] != 0)
  lost_B = drawn["mask_BT"].sum(1) - mutant_BT.sum(1)
  np.testing.assert_array_equal(lost_B, np.array(last_B) == 0)
  np.testing.assert_array_equal(drawn["ended_B"], np.isin(last_B, STOP))


def rows_of(batch):
  return [{k: x[b] for k, x in batch.items()} for b in range(B)]


@pytest.mark.parametrize("shape", ["llama", "window"])
def test_in_float32_they_say_nearly_the_same(shape):
  drawn = draw(shape, dtype="float32").batch
  assert drawn["old_logp_BT"].dtype == np.float32
  unlike = of_drawn(drawn, "old_logp_BT") - of_drawn(drawn, "sampled_logp_BT")
  assert 0 < np.abs(unlike).max() < 1e-4


def test_a_value_is_that_of_the_state_before_its_token():
  """Detail 4 of RL; the mutant: of the state that the token leads to."""
  with jax.enable_x64(True):
    drawn = draw("llama")
    found, at = drawn.batch, P + 1  # the third of what was drawn
    other = {k: x.copy() for k, x in found.items()}
    other["target_BT"][:, at] = (found["target_BT"][:, at] + 1) % 16
    other["tokens_BT"][:, at + 1] = other["target_BT"][:, at]
    moved_BT = drawn.score(other)["old_value_BT"] != found["old_value_BT"]
  there_B = found["segment_BT"][:, at + 1] > 0
  assert there_B.any()
  assert not moved_BT[:, : at + 1].any()
  assert moved_BT[there_B, at + 1].all()
  mutant_BT = np.roll(moved_BT, -1, 1)
  assert mutant_BT[there_B, : at + 1].any()
