"""What weights are worth on batches: evaluators of a decoder."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from llm_jax import state_plan
from llm_jax.contracts import Batch, Objective, Roles, Tokenizer
from llm_jax.data.denoisers import Plain
from llm_jax.evaluation import likelihood
from llm_jax.evaluation.objective import Teller
from llm_jax.experiment import DataSettings
from llm_jax.model import Model
from llm_jax.objectives.packed import Packed
from llm_jax.sharding import mesh as mesh_lib


def evaluator(
  model: Model, tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[Roles, Iterable[Batch], DataSettings], dict[str, float]]:
  """(roles, host batches, their settings) -> how well they are predicted."""
  token_bytes = jnp.zeros(model.shape.vocab_size, jnp.int32)
  known = tokenizer.token_bytes()
  token_bytes = token_bytes.at[: len(known)].set(known)
  compiled = jax.jit(
    lambda v, b: likelihood.totals(model.score, v, b, token_bytes)
  )

  def evaluate(
    roles: Roles, batches: Iterable[Batch], where: DataSettings
  ) -> dict[str, float]:
    placed = (mesh_lib.place(b, mesh) for b in batches)
    per_byte = getattr(where, "corruption", Plain()).measure
    return likelihood.evaluate(compiled, roles["policy"], placed, per_byte)

  return evaluate


def teller(objective: Objective, model: Model, mesh: Mesh) -> Teller:
  """(roles, host batches of preferences) -> what an objective says of them."""
  place = lambda batch: mesh_lib.place(batch, mesh)
  return Teller(Packed(objective), state_plan.forward(model), place)
