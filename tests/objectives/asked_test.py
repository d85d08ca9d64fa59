"""What an objective does not ask about, it does not read; in float64."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.contracts import asking
from llm_jax.objectives import dpo, unreferenced
from llm_jax.objectives.causal import Causal
from llm_jax.objectives.kto import KTO
from llm_jax.objectives.packed import Packed
from tests.objectives import table

B, T, V = 4, 6, 5
OBJECTIVES = [
  dpo.DPO(),
  KTO(),
  unreferenced.ORPO(),
  unreferenced.ORPO(nll_of="completion"),
  unreferenced.Sum((dpo.DPO(), unreferenced.SFT("all")), (1.0, 0.5)),
  Causal(z_loss=0.1),
  Causal(prompt_weight=0.5, average="sequence"),
  Packed(unreferenced.ORPO()),
]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64(True):
    yield


def furniture():
  r = np.random.default_rng(0)
  draw = lambda: {"w": r.normal(size=(V, V)), "p": r.normal(size=(T, V))}
  roles = {"policy": draw(), "reference": draw()}
  at_T, begin_B = np.arange(T), np.array([[2], [2], [1], [1]])
  end_B = np.array([[6], [4], [3], [5]])
  batch = {
    "tokens_BT": r.integers(0, V, (B, T)),
    "target_BT": r.integers(0, V, (B, T)),
    "mask_BT": (at_T >= begin_B) & (at_T < end_B),
    "prompt_BT": at_T < begin_B,
    "label_B": np.array([1.0, 1.0, 0.0, 0.0]),
  }
  return roles, batch


def only_asked(variables, batch, *, key=None):
  """Scores of positions that are asked about; of others 0."""
  found = table.scores(variables, batch)
  wanted_BT = batch["asked_BT"]
  found = found._replace(output_BTO=None)
  return jax.tree.map(lambda x: jnp.where(wanted_BT, x, 0), found)


def both(objective):
  """Loss and gradient, of all scores and of those asked for."""
  roles, batch = furniture()
  some = asking(objective, batch)
  assert some["asked_BT"].sum() < B * T
  every = table.step(objective, roles, batch, jit=False)[:2]
  found = table.step(objective, roles, some, score=only_asked, jit=False)[:2]
  return every, found


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_nothing_else_is_read(objective):
  every, found = both(objective)
  for a, b in zip(*map(jax.tree.leaves, (every, found)), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
  "objective", [OBJECTIVES[i] for i in (2, 4, 6)], ids=repr
)
def test_prompts_left_out_are_noticed(objective):
  completions = lambda self, batch: batch["mask_BT"]
  with mock.patch.object(type(objective), "asked", completions):
    every, found = both(objective)
  assert abs(every[0] - found[0]) > 1e-2


def test_of_plain_text_everything_is_asked():
  _, batch = furniture()
  del batch["prompt_BT"]
  assert "asked_BT" not in asking(Causal(), batch)
  weighed = dataclasses.replace(Causal(), prompt_weight=1.0)
  assert "asked_BT" not in asking(weighed, batch)
