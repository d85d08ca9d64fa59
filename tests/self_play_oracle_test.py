"""Self-play ends at the distribution of the data.

A decoder whose every completion can be enumerated, as in `oracle_test`. For
pairs of y from p and y' from ref the logistic loss is least where beta log
pi(y)/ref(y) is log p(y)/ref(y) and a constant: with beta 1, where pi is p.
"""

import dataclasses

import jax
import numpy as np

from llm_jax import model as model_lib
from llm_jax import self_play, state_plan, weights
from llm_jax.experiment import SelfPlay
from llm_jax.objectives.dpo import DPO
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training.refresh import Refresh
from tests import oracle_test

STEPS = 240
EVERY, PAIRS = oracle_test.EVERY, oracle_test.PAIRS
EXPERIMENT = dataclasses.replace(
  oracle_test.EXPERIMENT,
  objective=DPO(beta=1.0),
  refresh=Refresh(every=60),
  self_play=SelfPlay(max_new_tokens=2),
  steps=STEPS,
)


class Answers:
  """Pairs whose chosen completion is drawn from p, and nothing rejected."""

  def __init__(self, p):
    self._p, self._draw = p, np.random.default_rng(0)

  def next(self, state):
    del state
    which = self._draw.choice(len(EVERY), PAIRS, p=self._p)
    found = oracle_test.rows(np.repeat(EVERY[which], 2, 0))
    found["mask_BT"][1::2] = False
    return found | {"prompt_BT": np.zeros_like(found["mask_BT"])}


def test_the_data_are_reached_from_answers_alone():
  mesh = mesh_lib.make(EXPERIMENT.mesh)
  model = model_lib.of_shape(EXPERIMENT.model)
  wanted = oracle_test.normal(
    np.exp(np.random.default_rng(0).normal(size=len(EVERY)))
  )
  with jax.set_mesh(mesh):
    plan = state_plan.make(EXPERIMENT, model, mesh, reference=True)
    state = weights.start(EXPERIMENT, plan, mesh)
    every = oracle_test.rows(EVERY)
    score = jax.jit(lambda v: model.score(v, every).logp_BT.sum(-1))
    p = lambda role: np.exp(np.asarray(score(state.roles[role]), np.float64))
    prior = p("policy")
    source = self_play.Opponent(
      Answers(wanted), EXPERIMENT.self_play, model, ()
    )
    told = []
    for _ in range(STEPS):
      state, metrics = plan.step(state, source.next(state))
      told.append(metrics["drawn_same"])
  distance = lambda q: np.abs(p("policy") - q).sum() / 2
  found = distance(wanted)
  assert found < 0.04, f"total variation {found:.4f}"
  # It had far to go. Against completions drawn evenly, the mutant, it would
  # have ended elsewhere.
  assert np.abs(prior - wanted).sum() / 2 > 0.2
  assert distance(oracle_test.normal(prior * wanted)) > 3 * found
  # Now it plays against itself: as often as two draws of the data are one.
  np.testing.assert_allclose(p("reference"), p("policy"), rtol=1e-6)
  same = np.mean([m.compute() for m in told[-40:]])
  np.testing.assert_allclose(same, (wanted**2).sum(), rtol=0.1)
