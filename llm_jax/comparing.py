"""Preferences measured, for the verb `evaluate`."""

from collections.abc import Iterable, Sequence
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from llm_jax import asking, axes, measuring, weights
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Batch, Objective, Roles, Tokenizer
from llm_jax.data.preferences import Preferences
from llm_jax.evaluation import divergence, pairs
from llm_jax.evaluation import objective as by_objective
from llm_jax.evaluation.pairs import Completions
from llm_jax.experiment import DataSettings, Experiment
from llm_jax.generation.greedy import Answerer
from llm_jax.model import Model
from llm_jax.ops.sampling import Sampler
from llm_jax.reporting.progress import progress


def has_reference(experiment: Experiment) -> bool:
  """Whether the policy is one that speaks, and its beginning is there.

  ORPO and the like train without a reference; they can be held against one as
  long as the run that they began with is there.
  """
  objective, base = experiment.objective, experiment.init_from
  if objective.needs_reference:
    return True
  if "rankings" in objective.reads or "text" in objective.reads:
    return False
  return base is None or bool(
    Store(pathlib.Path(base).expanduser() / "checkpoints").steps()
  )


class Comparer:
  """Measures of completions, by an objective and its rewards."""

  def __init__(self, objective: Objective, model: Model, mesh: Mesh):
    self._reads = objective.reads
    self._tell = measuring.teller(objective, model, mesh)

  def __call__(
    self,
    where: Preferences,
    roles: Roles,
    batches: Iterable[Batch],
    compared: Iterable[Batch] | None,
    together: int,
    name: str,
  ) -> tuple[dict[str, float], Completions | None]:
    """Measures, and completions with their rewards, where there are any.

    Args:
      where: whose rows they are.
      roles: of the run.
      batches: as `where` has them.
      compared: pairs instead, for rewards; None = the same, () = none.
      together: rows of a prompt, among those that rewards are of.
      name: of the data.
    """
    # Answers alone are pairs that lack what is rejected.
    rows = "pairs" if where.rows == "answers" else where.rows
    told, ranked = rows in self._reads, rows == "rankings"
    if ranked and not told:
      return {}, None  # only a reward model has a place for more than two
    out: dict[str, float] = {}
    kept: list[Any] = []
    if told:
      same = compared is None
      out, kept = self._tell(roles, batches, same, progress, name)
    elif compared is None:
      compared = batches
    if compared is not None:
      kept = self._tell.rewards(roles, compared, progress, name)
    found = by_objective.gather(kept, together) if kept else None
    return out | (pairs.measure(found) if found else {}), found


def kl(
  experiment: Experiment,
  model: Model,
  tokenizer: Tokenizer,
  where: DataSettings,
  roles: Roles,
  prompts: Sequence[Sequence[int]],
) -> dict[str, float]:
  """KL from the reference on completions that the policy draws.

  Args:
    experiment: whose policy it is.
    model: its decoder.
    tokenizer: text <-> ids.
    where: the data that the prompts are of.
    roles: "policy" and "reference".
    prompts: ids of each; those without room for an answer are left out.

  Returns:
    As `divergence.summary`; {} where no prompt has room.
  """
  room = model.shape.max_length - experiment.peft.places
  limit = experiment.samples.max_new_tokens
  prompts = [p for p in prompts if 1 + len(p) + limit <= room]
  if not prompts:
    return {}
  rows = experiment.batch_size
  sample = Answerer(
    tokenizer,
    model.decode,
    model.open_cache,
    room,
    rows,
    asking.stop_ids(where, tokenizer),
    Sampler(),
    experiment.seed,
  )
  forward = weights.forward(model)

  @jax.jit
  def ratio(roles: Roles, batch: Batch) -> jax.Array:
    return axes.constrain(divergence.log_ratio(forward, roles, batch), "_")

  drawn = sample(roles["policy"], prompts, limit, whole=True)
  bar = progress(drawn, len(prompts), "sampling from the policy")
  completions, ratios = list(bar), []
  length = 1 + max(map(len, prompts)) + limit
  for at in range(0, len(prompts), rows):
    here = slice(at, at + rows)
    batch: Any = divergence.batch(
      prompts[here], completions[here], tokenizer.eos_id, rows, length
    )
    found = jax.device_get(ratio(roles, batch))
    ratios += found[: len(prompts[here])].tolist()
  return divergence.summary(ratios)
