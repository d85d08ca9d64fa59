"""When a run is written down."""

import jax

from llm_jax import host, state_plan
from llm_jax.checkpoints.store import Store
from llm_jax.contracts import Hook, Source
from llm_jax.reporting import hooks as reporting
from llm_jax.training.hooks import DivergedError
from llm_jax.training.state import TrainState


class Save(Hook):
  """Writes a checkpoint every so often, and at the end."""

  def __init__(
    self,
    store: Store,
    source: Source,
    every: int,
    until: int,
    validate: reporting.Validate,
    metrics: reporting.Metrics,
    done: int,
    base: dict[str, int],
  ):
    self._store, self._source = store, source
    self._every, self._until = every, until
    self._validate, self._metrics = validate, metrics
    self._saved = done if store.steps() else -1
    self._base = base

  def due(self, step: int) -> bool:
    regular = self._every and step % self._every == 0
    return bool(regular) or step == self._until

  def rescue(self, step: int, state: TrainState, error: Exception) -> None:
    # Several processes save together, or not at all.
    shared = isinstance(error, DivergedError | host.SharedError)
    if step and (jax.process_count() == 1 or shared):
      self.act(step, state)

  def act(self, step: int, state: TrainState) -> None:
    if step != self._saved:
      self._saved = step
      position = self._source.get_state() | {"base": self._base}
      with self._metrics.during("saving"):
        self._metrics.send()  # no checkpoint without the rows before it
        self._store.save(
          step, state_plan.saved(state), position, self._validate.at(step)
        )
