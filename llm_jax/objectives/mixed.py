"""An objective on its rows, and language modelling on others beside them.

A batch carries the rows of others under names of their own, `ptx_tokens_BT`
and so on, `ptx1_tokens_BT` those of the second.

Dimension key: B rows of one source; T their positions.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax

from llm_jax.contracts import (
  asking,
  Batch,
  Forward,
  Metrics,
  Roles,
  Score,
  Scores,
)
from llm_jax.objectives.around import Around
from llm_jax.objectives.causal import Causal

_LANGUAGE = Causal()


@dataclasses.dataclass(frozen=True)
class Mixed(Around):
  """PPO-ptx. Ouyang et al. 2022, arXiv:2203.02155, eq. 2.

    loss = the objective's + sum_i gamma_i mean of -log p(token of others i)

  Others are scored at temperature 1, whatever the objective's rows are at.
  """

  weights: tuple[float, ...]  # gamma

  def weigh(self, batch: Batch) -> Batch:
    out = dict(self.objective.weigh(batch))
    for i in range(len(self.weights)):
      out |= _named(_LANGUAGE.weigh(others(batch, i)), i)
    return out

  def loss(
    self, forward: Forward, roles: Roles, batch: Batch, key: jax.Array | None
  ) -> tuple[jax.Array, Metrics]:
    loss, metrics = self.objective.loss(forward, roles, batch, key)
    plain = {"policy": _at_temperature_1(forward["policy"])}
    for i, weight in enumerate(self.weights):
      its = None if key is None else jax.random.fold_in(key, 1 + i)
      rows = asking(_LANGUAGE, others(batch, i))
      more, told = _LANGUAGE.loss(plain, roles, rows, its)
      loss += weight * more
      metrics = metrics | {f"{_name(i)}_nll": told["nll"]}
    return loss, metrics


def carrying(batch: Batch, rows: Sequence[Batch]) -> Batch:
  """A batch with the rows of others."""
  out = dict(batch)
  for i, its in enumerate(rows):
    out |= _named(its, i)
  return out


def others(batch: Batch, i: int) -> Batch:
  """The rows of others that a batch carries, the i-th from 0."""
  begin = f"{_name(i)}_"
  return {
    name.removeprefix(begin): x
    for name, x in batch.items()
    if name.startswith(begin)
  }


def _named(rows: Mapping[str, Any], i: int) -> dict[str, Any]:
  return {f"{_name(i)}_{name}": x for name, x in rows.items()}


def _name(i: int) -> str:
  return f"ptx{i or ''}"


def _at_temperature_1(score: Score) -> Score:
  def plain(variables: Any, batch: Batch, **how: Any) -> Scores:
    return score(variables, batch, **{**how, "temperature": 1.0})

  return plain
