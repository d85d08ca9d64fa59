"""Batches that carry the rows of other data beside their own."""

from collections.abc import Sequence
from typing import Any

from llm_jax.contracts import Batch, Source
from llm_jax.objectives import mixed


class Mixing:
  """A source with others beside it, see `objectives.mixed`.

  Args:
    source: of the batches.
    others: of the rows that they carry; any number a batch.
  """

  def __init__(self, source: Source, others: Sequence[Source]):
    self._source, self._others = source, others

  def next(self, state: Any) -> Batch:
    batch = self._source.next(state)  # before the others, as it may fail
    return mixed.carrying(batch, [other.next(state) for other in self._others])

  def get_state(self) -> dict[str, Any]:
    places = {str(i): s.get_state() for i, s in enumerate(self._others)}
    return self._source.get_state() | {"mixed": places}

  def set_state(self, saved: dict[str, Any]) -> None:
    self._source.set_state(saved)
    for i, other in enumerate(self._others):
      other.set_state(saved["mixed"][str(i)])
