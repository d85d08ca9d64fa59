"""DPO on preferences drawn from a known reward ends where theory says.

A decoder whose every completion can be enumerated: V^2 of two tokens. With
preferences of Bradley-Terry, P(y > y') = sigmoid(r(y) - r(y')), the optimum is
ref(y) exp(r(y) / beta) / Z (Rafailov et al. 2023, arXiv:2305.18290, eq. 4).
"""

import jax
import numpy as np
import pytest

from llm_jax import model as model_lib
from llm_jax import state_plan, weights
from llm_jax.experiment import Experiment
from llm_jax.models.config import TransformerConfig
from llm_jax.objectives.dpo import DPO
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.tokenizers.bytes import Bytes
from llm_jax.training.optimizers import AdamW
from llm_jax.training.schedules import Schedule

V, BETA, STEPS, PAIRS = 6, 1.0, 1000, 512
EVERY = np.stack(np.meshgrid(*[np.arange(V)] * 2, indexing="ij"), -1)
EVERY = EVERY.reshape(-1, 2).astype(np.int32)  # [V^2, 2]
EXPERIMENT = Experiment(
  model=TransformerConfig(
    num_layers=1,
    embed_dim=32,
    mlp_dim=64,
    num_heads=2,
    vocab_size=V,
    max_length=4,
    tied=False,
    positions="learned",  # else two tokens 0 look like one
    init_std=0.2,
  ),
  objective=DPO(beta=BETA),
  tokenizer=Bytes(),
  optimizer=AdamW(
    peak=5e-3, schedule=Schedule("cosine", warmup=20), weight_decay=0.0
  ),
  mesh=mesh_lib.MeshShape(1, 1, 1),
  batch_size=2 * PAIRS,
  steps=STEPS,
)


def rows(completions):
  """Each after the start token 0, as rows of a batch."""
  B = len(completions)
  start_B1 = np.zeros((B, 1), np.int32)
  tokens_BT = np.concatenate([start_B1, completions[:, :1]], 1)
  mask_BT = np.ones((B, 2), bool)
  return {"tokens_BT": tokens_BT, "target_BT": completions, "mask_BT": mask_BT}


def drawn(r, reward):
  """PAIRS of completions, the preferred one of each first."""
  which = r.integers(0, len(EVERY), (PAIRS, 2))
  won = 1 / (1 + np.exp(reward[which[:, 1]] - reward[which[:, 0]]))
  first = r.random(PAIRS) < won
  which = np.where(first[:, None], which, which[:, ::-1])
  return rows(EVERY[which.reshape(-1)])


@pytest.mark.optimised  # it runs for longer than it compiles
def test_the_optimum_is_reached_from_drawn_preferences():
  mesh = mesh_lib.make(EXPERIMENT.mesh)
  model = model_lib.of_shape(EXPERIMENT.model)
  with jax.set_mesh(mesh):
    plan = state_plan.make(EXPERIMENT, model, mesh, reference=True)
    state = weights.start(EXPERIMENT, plan, mesh)
  every = rows(EVERY)
  score = jax.jit(lambda v: model.score(v, every).logp_BT.sum(-1))
  p = lambda v: np.exp(np.asarray(score(v), np.float64))
  prior = p(state.roles["reference"])
  np.testing.assert_allclose(prior.sum(), 1, rtol=1e-5)
  r = np.random.default_rng(0)
  reward = r.normal(size=len(EVERY))
  with jax.set_mesh(mesh):
    for _ in range(STEPS):
      state, _ = plan.step(state, drawn(r, reward))
  optimum = lambda beta: normal(prior * np.exp(reward / beta))
  distance = lambda q: np.abs(p(state.roles["policy"]) - q).sum() / 2
  found = distance(optimum(BETA))
  assert found < 0.02, f"total variation {found:.4f}"
  # It had far to go, and other strengths end elsewhere.
  assert np.abs(prior - optimum(BETA)).sum() / 2 > 0.1
  assert min(distance(optimum(BETA * x)) for x in (0.7, 1.4)) > 2 * found
  np.testing.assert_array_equal(p(state.roles["reference"]), prior)


def normal(x):
  return x / x.sum()
