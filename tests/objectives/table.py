"""The smallest models that have a policy and a reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.contracts import Scores
from llm_jax.training import step as step_lib


def scores(variables, batch, *, key=None):
  """A table: after token x at position t the logits are w[x] + p[t]."""
  return _scores(variables, batch["tokens_BT"], batch["target_BT"])


@jax.jit  # alone, so that all objectives share what is compiled
def _scores(variables, tokens_BT, target_BT):
  logits_BTV = variables["w"][tokens_BT] + variables["p"][: tokens_BT.shape[1]]
  logz_BT = jax.nn.logsumexp(logits_BTV, -1)
  picked_BTV = target_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
  picked_BT = (logits_BTV * picked_BTV).sum(-1)
  output_BTO = logits_BTV[..., :1]
  return Scores(picked_BT - logz_BT, logz_BT, output_BTO=output_BTO)


def given(logp_B, batch, *, key=None):
  """A model that is nothing but its completions' log-probabilities."""
  logp_B = logp_B[batch["row_B"]]
  first_BT = jnp.cumsum(batch["mask_BT"], 1) == 1
  logp_BT = jnp.where(first_BT & batch["mask_BT"], logp_B[:, None], 0)
  return Scores(logp_BT, logp_BT, output_BTO=logp_BT[..., None])


def rows_of(length_B, T=4):
  """A batch of completions of so many tokens, for `given`."""
  mask_BT = np.arange(T) < np.asarray(length_B)[:, None]
  return {"mask_BT": mask_BT, "row_B": np.arange(len(mask_BT))}


def step(
  objective, roles, batch, cuts=1, *, group=None, score=scores, jit=True
):
  """(loss, gradient in the policy, metrics) of a batch, cut as a step does.

  Many objectives on one shape are sooner done without `jit`.
  """
  run = functools.partial(_step, objective, cuts, group, score)
  batch = {name: jnp.asarray(x) for name, x in batch.items()}
  (value, metrics), gradient = (jax.jit(run) if jit else run)(roles, batch)
  return value, gradient, {name: m.compute() for name, m in metrics.items()}


def _step(objective, cuts, group, score, roles, batch):
  group = group or objective.rows_together
  forward = {"policy": score, "reference": score}

  def cut(batch):
    cut_ = step_lib.cut(batch, cuts, group)
    return [{name: x[i] for name, x in cut_.items()} for i in range(cuts)]

  parts = [objective.annotate(forward, roles, part) for part in cut(batch)]
  pasted = jax.tree.map(lambda *x: jnp.stack(x), *parts)
  weighed = objective.weigh(step_lib.paste(pasted, group))
  weighed = jax.lax.stop_gradient(weighed)

  def loss(policy):
    now = roles | {"policy": policy}
    found = [
      objective.loss(forward, now, part, jax.random.key(0))
      for part in cut(weighed)
    ]
    metrics = found[0][1]
    for _, more in found[1:]:
      metrics = {name: m + more[name] for name, m in metrics.items()}
    return sum(value for value, _ in found), metrics

  return jax.value_and_grad(loss, has_aux=True)(roles["policy"])


def trace(objective, batch):
  """The loss of a batch under any weights."""
  table = {"w": jnp.ones((5, 5)), "p": jnp.ones((9, 5))}
  roles = {"policy": table, "reference": table}
  forward = {"policy": scores, "reference": scores}
  batch = objective.weigh(objective.annotate(forward, roles, batch))
  return objective.loss(forward, roles, batch, jax.random.key(0))
