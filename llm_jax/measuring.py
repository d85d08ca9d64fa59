"""What weights are worth on batches: evaluators of a decoder."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import weights
from llm_jax.contracts import Batch, Objective, Roles, Tokenizer
from llm_jax.evaluation import likelihood
from llm_jax.evaluation import objective as by_objective
from llm_jax.model import Model
from llm_jax.sharding import mesh as mesh_lib


def evaluator(
  model: Model, tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[Roles, Iterable[Batch]], dict[str, float]]:
  """(roles, host batches) -> how well the policy predicts them."""
  token_bytes = jnp.zeros(model.shape.vocab_size, jnp.int32)
  known = tokenizer.token_bytes()
  token_bytes = token_bytes.at[: len(known)].set(known)
  compiled = jax.jit(
    lambda v, b: likelihood.totals(model.score, v, b, token_bytes)
  )

  def evaluate(roles: Roles, batches: Iterable[Batch]) -> dict[str, float]:
    placed = (mesh_lib.place(b, mesh) for b in batches)
    return likelihood.evaluate(compiled, roles["policy"], placed)

  return evaluate


def comparer(
  objective: Objective, model: Model, mesh: Mesh
) -> Callable[[Roles, Iterable[Batch]], dict[str, float]]:
  """(roles, host batches of preferences) -> what an objective says of them."""
  forward = weights.forward(model)
  compiled = jax.jit(
    lambda roles, b: by_objective.totals(objective, forward, roles, b)
  )

  def evaluate(roles: Roles, batches: Iterable[Batch]) -> dict[str, float]:
    placed = (mesh_lib.place(b, mesh) for b in batches)
    return by_objective.evaluate(compiled, roles, placed)

  return evaluate
