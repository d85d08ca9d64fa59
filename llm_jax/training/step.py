"""One optimisation step, for every objective.

Dimension key: B rows of the global batch; n microbatches; g rows of a group.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llm_jax import keys, trees
from llm_jax.contracts import asking, Batch, Forward, Metrics, Objective
from llm_jax.ops import microbatches as microbatches_lib
from llm_jax.ops.metrics import Mean
from llm_jax.training.refresh import Refresh
from llm_jax.training.state import TrainState


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  objective: Objective,
  forward: Forward,
  optimizer: optax.GradientTransformation,
  microbatches: int = 1,
  average_decay: float | None = None,
  refresh: Refresh = Refresh(),
) -> tuple[TrainState, Metrics]:
  """Annotate -> weigh -> summed losses -> update. Exact for any cut.

  Args:
    state: before the step.
    batch: rows of the global batch.
    objective: what to minimise.
    forward: role -> its forward.
    optimizer: made with the same settings as `state.opt_state`.
    microbatches: n; how many parts of the batch are differentiated in turn.
    average_decay: of the moving average, if the state keeps one.
    refresh: of the reference, if the state keeps one that may change.

  Returns:
    The state after the step, and means of the whole batch. A non-finite loss
    or gradient changes nothing but the counts of steps and of skipped ones.
  """
  group = objective.rows_together
  batch = asking(objective, batch)
  parts = cut(batch, microbatches, group)
  roles = state.roles
  parts = _map(lambda p: objective.annotate(forward, roles, p), parts)
  parts = jax.lax.stop_gradient(
    cut(objective.weigh(paste(parts, group)), microbatches, group)
  )
  key = keys.stream(state.key, "loss", state.step)

  def loss(trainable: Any, i: jax.Array, part: Batch) -> tuple:
    return objective.loss(
      forward,
      trees.join(trainable, state.frozen),
      part,
      jax.random.fold_in(key, i),
    )

  def of_part(i_part: tuple) -> tuple:
    return jax.value_and_grad(loss, has_aux=True)(state.trainable, *i_part)

  (value, metrics), grads = _sum(of_part, (jnp.arange(microbatches), parts))
  updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
  trainable = optax.apply_updates(state.trainable, updates)
  average = state.average
  if average is not None:
    if average_decay is None:
      raise ValueError("the state keeps an average: give average_decay")
    average = jax.tree.map(
      lambda a, t: a + (1 - average_decay) * (t - a), average, trainable
    )
  updates_done = state.step + 1 - state.skipped
  reference = state.reference
  if reference is not None:
    reference = refresh.mixed(reference, trainable["policy"], updates_done)
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(value) & jnp.isfinite(norm)
  unless = lambda new, old: jax.tree.map(
    lambda a, b: jnp.where(finite, a, b), new, old
  )
  skipped = state.skipped + (1 - finite.astype(jnp.int32))
  new = dataclasses.replace(
    state,
    step=state.step + 1,
    trainable=unless(trainable, state.trainable),
    opt_state=unless(opt_state, state.opt_state),
    average=unless(average, state.average),
    reference=unless(reference, state.reference),
    skipped=skipped,
  )
  told = {
    name.removeprefix("told_").removesuffix("_B"): Mean.of(x)
    for name, x in batch.items()
    if name.startswith("told_")
  }
  return new, metrics | told | {
    "loss": Mean.sum(value),
    "grad_norm": Mean.sum(norm),
    "skipped": Mean.sum(skipped.astype(jnp.float32)),
  }


def cut(batch: Batch, n: int, group: int = 1) -> Batch:
  """Each of a batch's arrays as n microbatches, see `microbatches.cut`.

  Raises:
    ValueError: its rows are not divisible by n groups.
  """
  for x in batch.values():
    if x.shape[0] % (n * group):
      raise ValueError(
        f"--batch_size={x.shape[0]}: not divisible by {n} microbatches of"
        f" groups of {group} rows"
      )
  return jax.tree.map(lambda x: microbatches_lib.cut(x, n, group), dict(batch))


def paste(parts: Batch, group: int = 1) -> Batch:
  """The inverse of `cut`."""
  return jax.tree.map(lambda x: microbatches_lib.paste(x, group), parts)


def _map(f: Any, parts: Any) -> Any:
  """F on each microbatch; no loop around a single one."""
  if jax.tree.leaves(parts)[0].shape[0] > 1:
    return jax.lax.map(f, parts)
  only = f(jax.tree.map(lambda x: x[0], parts))
  return jax.tree.map(lambda x: x[None], only)


def _sum(f: Any, parts: Any) -> Any:
  """Sum of f over microbatches, one at a time in memory."""
  first = jax.tree.map(lambda x: x[0], parts)
  if jax.tree.leaves(parts)[0].shape[0] == 1:
    return f(first)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, first)
  )
  add = lambda total, p: (jax.tree.map(jnp.add, total, f(p)), None)
  return jax.lax.scan(add, zeros, parts)[0]
