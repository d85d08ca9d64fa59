"""The smallest model that has a policy and a reference: a table of logits."""

import jax
import jax.numpy as jnp

from llm_jax.contracts import Scores


def scores(variables, batch, *, key=None):
  """After token x at position t the logits are w[x] + p[t]."""
  return _scores(variables, batch["tokens_BT"], batch["target_BT"])


@jax.jit  # alone, so that all objectives share what is compiled
def _scores(variables, tokens_BT, target_BT):
  logits_BTV = variables["w"][tokens_BT] + variables["p"][: tokens_BT.shape[1]]
  logz_BT = jax.nn.logsumexp(logits_BTV, -1)
  picked_BTV = target_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
  picked_BT = (logits_BTV * picked_BTV).sum(-1)
  output_BTO = logits_BTV[..., :1]
  return Scores(picked_BT - logz_BT, logz_BT, output_BTO=output_BTO)


FORWARD = {"policy": scores, "reference": scores}


def step(objective, roles, batch, cuts=1):
  """(loss, gradient in the policy, metrics) of a batch, cut as a step does."""
  from llm_jax.training import step as step_lib

  group = objective.rows_together
  batch = {name: jnp.asarray(x) for name, x in batch.items()}

  def run(roles, batch):
    cut = lambda b: [
      {name: x[i] for name, x in step_lib.cut(b, cuts, group).items()}
      for i in range(cuts)
    ]
    parts = [objective.annotate(FORWARD, roles, part) for part in cut(batch)]
    pasted = jax.tree.map(lambda *x: jnp.stack(x), *parts)
    weighed = objective.weigh(step_lib.paste(pasted, group))
    weighed = jax.lax.stop_gradient(weighed)

    def loss(policy):
      found = [
        objective.loss(
          FORWARD, roles | {"policy": policy}, part, jax.random.key(0)
        )
        for part in cut(weighed)
      ]
      value = sum(f[0] for f in found)
      metrics = found[0][1]
      for _, more in found[1:]:
        metrics = {name: m + more[name] for name, m in metrics.items()}
      return value, metrics

    return jax.value_and_grad(loss, has_aux=True)(roles["policy"])

  (value, metrics), gradient = run(roles, batch)
  return value, gradient, {name: m.compute() for name, m in metrics.items()}


def trace(objective, batch):
  """The loss of a batch under any weights."""
  table = {"w": jnp.ones((5, 5)), "p": jnp.ones((9, 5))}
  roles = {"policy": table, "reference": table}
  batch = objective.weigh(objective.annotate(FORWARD, roles, batch))
  return objective.loss(FORWARD, roles, batch, jax.random.key(0))
