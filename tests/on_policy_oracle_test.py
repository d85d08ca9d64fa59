"""PPO and GRPO end where theory says, on a toy that can be enumerated.

Every completion is one of V^2 pairs of tokens. With a reward r and a penalty
of beta times the KL, the optimum is ref(y) exp(r(y) / beta) / Z (Ziegler et
al. 2019, arXiv:1909.08593; Rafailov et al. 2023, arXiv:2305.18290, eq. 4).
"""

import dataclasses

import jax
import numpy as np
import pytest

from llm_jax import model as model_lib
from llm_jax import on_policy, state_plan, weights
from llm_jax.contracts import Verdict
from llm_jax.generation import rollouts
from llm_jax.objectives import group
from llm_jax.objectives.ppo import PPO
from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.sampling import Sampler
from llm_jax.sharding import mesh as mesh_lib
from llm_jax.training import loop
from tests import oracle_test as toy

BETA, LIMIT = 1.0, 2
PROMPT = on_policy.Prompt((), [])  # nothing but what begins a document, token 0
ROLLOUTS = rollouts.Rollouts(
  batch=512, epochs=2, max_new_tokens=LIMIT, sampler=Sampler()
)


def experiment(objective, steps):
  return dataclasses.replace(
    toy.EXPERIMENT,
    model=dataclasses.replace(toy.EXPERIMENT.model, outputs=1),
    objective=objective,
    rollouts=ROLLOUTS,  # drawn at another temperature it ends elsewhere
    batch_size=256,
    steps=steps,
    optimizer=dataclasses.replace(toy.EXPERIMENT.optimizer, peak=5e-3),
  )


def functions(model):
  def draw(roles, batch, key):
    rows, width = batch["prompt_BP"].shape
    return rollouts.draw(
      model.decode,
      roles["policy"],
      batch["prompt_BP"],
      batch["length_B"],
      model.open_cache(roles["policy"], rows, width + LIMIT),
      key,
      limit=LIMIT,
      sampler=ROLLOUTS.sampler,
      stop_ids=(),
    )

  def score(roles, batch):
    policy = model.score(roles["policy"], batch)
    reference = model.score(roles["reference"], batch)
    return {
      "old_logp_BT": policy.logp_BT,
      "old_value_BT": policy.output_BTO[..., 0],
      "ref_logp_BT": reference.logp_BT,
    }

  return on_policy.Functions(jax.jit(draw), jax.jit(score))


OBJECTIVES = {
  "ppo": PPO(lam=1.0, terminal="last", value_weight=0.5, critic="shared"),
  "grpo": dataclasses.replace(
    group.grpo(8), scale=False, kl=BETA, kl_loss="k2"
  ),
  "rloo": group.rloo(8),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_optimum_is_reached(name):
  settings = experiment(OBJECTIVES[name], 400)
  mesh = mesh_lib.make(settings.mesh)
  model = model_lib.of_shape(settings.model)
  reward = np.random.default_rng(0).normal(size=(toy.V, toy.V))
  with jax.set_mesh(mesh):
    plan = state_plan.make(settings, model, mesh, reference=True)
    state = weights.start(settings, plan, mesh)
    source = on_policy.OnPolicy(
      ROLLOUTS,
      Shaping(missing_eos="keep", beta=BETA),
      settings.objective,
      [PROMPT],
      functions(model),
      on_policy.Reward(
        text=lambda ids: " ".join(map(str, ids)),
        score=lambda questions: [
          Verdict(
            tuple(float(reward[*map(int, c.split())]) for c in q.completions)
          )
          for q in questions
        ],
      ),
      ids=(0, 0),
      seed=0,
      batch_size=settings.batch_size,
      group=getattr(settings.objective, "completions", 1),
      mesh=mesh,
    )
    every = toy.rows(toy.EVERY)
    score = jax.jit(lambda v: model.score(v, every).logp_BT.sum(-1))
    p = lambda v: np.exp(np.asarray(score(v), np.float64))
    prior = p(state.roles["reference"])
    state = loop.train(state, plan.step, source, [], until=settings.steps)
  r = reward[toy.EVERY[:, 0], toy.EVERY[:, 1]]
  optimum = lambda beta: toy.normal(prior * np.exp(r / beta))
  distance = lambda q: np.abs(p(state.roles["policy"]) - q).sum() / 2
  found = distance(optimum(BETA))
  print(name, found, np.abs(prior - optimum(BETA)).sum() / 2)
  assert found < 0.05, f"total variation {found:.4f}"
  assert np.abs(prior - optimum(BETA)).sum() / 2 > 0.1
  assert min(distance(optimum(BETA * x)) for x in (0.6, 1.6)) > found
