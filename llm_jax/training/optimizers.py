"""Settings of an optimiser, and the optax chain they stand for."""

import dataclasses
from typing import Any

import jax
import optax
from optax import contrib

from llm_jax.config import field
from llm_jax.training.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """What every optimiser shares: clip, update, decay, learning rate."""

  peak: float = field(1e-3, "learning rate after the warm-up", low=0)
  schedule: Schedule = Schedule()
  clip: float | None = field(1.0, "global norm that gradients keep to", low=0)
  weight_decay: float = field(
    0.1, "decoupled, on matrices and tables only", low=0
  )

  def make(self, steps: int, suffixes: Any) -> optax.GradientTransformation:
    """The optax chain for parameters of these suffixes ("LDF", "D", ...)."""
    clip = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
    return optax.chain(*clip, *self._scale(self.learning_rate(steps), suffixes))

  def learning_rate(self, steps: int) -> optax.Schedule:
    """Step (from 0) -> learning rate."""
    return self.schedule.make(self.peak, steps)

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    raise NotImplementedError

  def _decayed(self, rate: optax.Schedule, suffixes: Any) -> list:
    mask = jax.tree.map(is_matrix, suffixes)
    decay = (
      [optax.add_decayed_weights(self.weight_decay, mask)]
      if self.weight_decay
      else []
    )
    return [*decay, optax.scale_by_learning_rate(rate)]


def is_matrix(suffix: str) -> bool:
  """Whether a parameter, seen in one layer, has two dims or more."""
  return len(suffix.replace("L", "")) >= 2


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
  """Adam with decoupled decay. arXiv:1711.05101, algorithm 2."""

  b1: float = field(0.9, "decay of the mean of gradients", low=0, high=1)
  b2: float = field(0.95, "decay of the mean of squares", low=0, high=1)
  eps: float = field(1e-8, "added to the root, after bias correction", low=0)

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
    return [adam, *self._decayed(rate, suffixes)]


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
  """Sign of an interpolated momentum. arXiv:2302.06675, algorithm 2."""

  b1: float = field(0.9, "weight of momentum in the update", low=0, high=1)
  b2: float = field(0.99, "decay of the momentum", low=0, high=1)

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    lion = optax.scale_by_lion(self.b1, self.b2)
    return [lion, *self._decayed(rate, suffixes)]


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
  """Factored second moments, update clipping. arXiv:1804.04235, algorithm 4.

  Differs from the paper: the learning rate is the schedule's, not relative to
  the parameter's size, and there is no first moment.
  """

  decay_power: float = field(0.8, "second moments decay at 1 - t^-power", low=0)
  update_clip: float = field(
    1.0, "root mean square that updates keep to", low=0
  )

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    return [
      optax.scale_by_factored_rms(decay_rate=self.decay_power),
      optax.clip_by_block_rms(self.update_clip),
      *self._decayed(rate, suffixes),
    ]


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
  """Orthogonalised momentum for the blocks' matrices, Adam for the rest.

  Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with updates scaled
  to Adam's size, 0.2 sqrt(max(in, out)) (arXiv:2502.16982, eq. 4), so that
  one learning rate serves both.
  """

  momentum: float = field(0.95, "decay of the momentum", low=0, high=1)
  b1: float = field(0.9, "of Adam", low=0, high=1)
  b2: float = field(0.95, "of Adam", low=0, high=1)
  eps: float = field(1e-8, "of Adam", low=0)

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    return [
      contrib.muon(
        rate,
        beta=self.momentum,
        eps=self.eps,
        adam_b1=self.b1,
        adam_b2=self.b2,
        weight_decay=self.weight_decay,
        adam_weight_decay=self.weight_decay,
        weight_decay_mask=jax.tree.map(is_matrix, suffixes),
        muon_weight_dimension_numbers=jax.tree.map(_dims, suffixes),
        consistent_rms=0.2,
      )
    ]


def _dims(suffix: str) -> contrib.MuonDimensionNumbers | None:
  """Which dims a block's matrix contracts, and which it makes; None = Adam.

  The residual width D is one side of every matrix: first in "LDNH", last in
  "LNHD".
  """
  if not suffix.startswith("L") or not is_matrix(suffix):
    return None
  last = len(suffix) - 1
  if suffix[1] == "D":
    return contrib.MuonDimensionNumbers((1,), tuple(range(2, last + 1)))
  return contrib.MuonDimensionNumbers(tuple(range(1, last)), (last,))
