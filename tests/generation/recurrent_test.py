"""What is drawn from a state is what the forward scores, in float64."""

import functools

import jax
import numpy as np
import pytest

from llm_jax import model as model_lib
from llm_jax.generation import rollouts
from llm_jax.ops.sampling import Sampler
from tests import small

LENGTHS, P, N, TWICE = np.array([2, 5, 1, 3], np.int32), 5, 6, 2
PROMPTS = np.random.default_rng(0).integers(1, 16, (4, P), np.int32)
TEMPERATURE = 1.3
CELLS = pytest.mark.parametrize("cell", small.RECURRENT)


@functools.cache
def drawn(cell, hidden_pads=0):
  """(rows that were drawn, their scores by the forward)."""
  built, variables = small.build(small.RECURRENT[cell])
  model = model_lib.of_shape(built.config)
  repeat = lambda x: np.repeat(x, TWICE, 0)
  prompts = np.where(
    np.arange(P) < P - LENGTHS[:, None], hidden_pads, PROMPTS
  ).astype(np.int32)

  def run(variables, key):
    rows = rollouts.draw(
      model.decode,
      model.ready(variables),
      repeat(prompts),
      repeat(LENGTHS),
      model.open_cache(variables, 4, P),
      key,
      limit=N,
      sampler=Sampler(temperature=TEMPERATURE),
      stop_ids=(6,),
      completions=TWICE,
      repeat=model.repeat,
      grow=model.grow,
    )
    scores = model.score(variables, rows, temperature=TEMPERATURE)
    return rows, scores.logp_BT

  return jax.jit(run)(variables, jax.random.key(0))


@CELLS
def test_the_sampler_is_the_scorer(cell):
  with jax.enable_x64(True):
    rows, logp_BT = drawn(cell)
  mask_BT = np.asarray(rows["mask_BT"])
  got = np.where(mask_BT, rows["sampled_logp_BT"], 0)
  np.testing.assert_allclose(got, np.where(mask_BT, logp_BT, 0), atol=1e-11)
  assert mask_BT.sum(1).min() >= 1 and mask_BT.sum() < mask_BT.size
  one, other = rows["tokens_BT"][::2], rows["tokens_BT"][1::2]
  assert not np.array_equal(one, other)  # each completion is drawn by itself


@CELLS
def test_what_stands_before_a_prompt_is_not_read(cell):
  with jax.enable_x64(True):
    rows, _ = drawn(cell)
    others, _ = drawn(cell, hidden_pads=9)
  for name in ("sampled_logp_BT", "target_BT"):
    real = rows["mask_BT"]
    np.testing.assert_array_equal(
      np.where(real, rows[name], 0), np.where(real, others[name], 0)
    )


def test_rows_with_adapters_of_their_own_are_each_alone():
  """A batch over adapters steps each row's state with its own weights."""
  with jax.enable_x64(True):
    built, variables = small.build(small.RECURRENT["lstm"])
    model = model_lib.of_shape(built.config)
    r = np.random.default_rng(1)
    kernel = variables["params"]["blocks"]["recurrent"]["kernel"]
    shift = r.normal(size=(4, *kernel.shape[:1], *kernel.shape[2:]))
    adapters = {"blocks": {"recurrent": {"bias": shift}}}
    token, ones = PROMPTS[:, :2], np.ones((4, 2), np.int32)
    both = variables | {"adapters": adapters}
    state = model.open_rows(both, 4, 9)
    got, state = jax.jit(model.decode_rows)(both, token, ones, ones, state)
    for i in range(4):
      alone = variables | {
        "adapters": jax.tree.map(lambda x, i=i: x[i], adapters)
      }
      want, its = jax.jit(model.decode)(
        alone,
        token[i : i + 1],
        ones[:1],
        ones[:1],
        model.open_cache(alone, 1, 9),
      )
      np.testing.assert_allclose(got[i], want[0], atol=1e-12)
      np.testing.assert_allclose(state[1][i], its[1][0], atol=1e-12)
    assert np.abs(got[0] - got[1]).max() > 1e-3
