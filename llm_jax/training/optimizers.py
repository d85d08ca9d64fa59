"""Settings of an optimiser, and the optax chain they stand for."""

import abc
import dataclasses
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from llm_jax.config import field
from llm_jax.training import muon
from llm_jax.training.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
  """What every optimiser shares: clip, update, decay, learning rate."""

  peak: float = field(1e-3, "learning rate after the warm-up", low=0)
  schedule: Schedule = Schedule()
  clip: float | None = field(1.0, "global norm that gradients keep to", low=0)
  weight_decay: float = field(
    0.1, "decoupled, on matrices and tables only", low=0
  )

  def make(self, steps: int, suffixes: Any) -> optax.GradientTransformation:
    """The optax chain for parameters of these suffixes ("LDF", "D", ...).

    Raises:
      ValueError: a setting that would leave no update, or a division by zero.
    """
    for name in ("clip", "update_clip"):
      if getattr(self, name, None) == 0:
        raise ValueError(f"--optimizer.{name}=0: nothing would ever move")
    for name in ("b1", "b2"):
      if getattr(self, name, 0) == 1:
        raise ValueError(f"--optimizer.{name}=1: must be less than 1")
    clip = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
    return optax.chain(*clip, *self._scale(self.learning_rate(steps), suffixes))

  def learning_rate(self, steps: int) -> optax.Schedule:
    """Step (from 0) -> learning rate."""
    return self.schedule.make(self.peak, steps)

  @abc.abstractmethod
  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    """From clipped gradients to updates."""

  def _decayed(self, rate: optax.Schedule, suffixes: Any) -> list:
    mask = jax.tree.map(muon.is_matrix, suffixes)
    decay = (
      [optax.add_decayed_weights(self.weight_decay, mask)]
      if self.weight_decay
      else []
    )
    return [*decay, optax.scale_by_learning_rate(rate)]


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
  """Adam with decoupled decay. arXiv:1711.05101, algorithm 2."""

  b1: float = field(0.9, "decay of the mean of gradients", low=0, high=1)
  b2: float = field(0.95, "decay of the mean of squares", low=0, high=1)
  eps: float = field(1e-8, "added to the root of the mean of squares", low=0)
  eps_to: Literal["corrected", "raw"] = field(
    "corrected",
    "which root: after bias correction; or before it, as TensorFlow's Adam, so"
    " that first steps are smaller",
  )

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    make = _raw_adam if self.eps_to == "raw" else optax.scale_by_adam
    adam = make(self.b1, self.b2, self.eps)
    return [adam, *self._decayed(rate, suffixes)]


def _raw_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Adam with its epsilon outside of the correction.

    sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

  Kingma and Ba, arXiv:1412.6980, end of section 2 ("epsilon hat"). Its state is
  that of the other form.
  """
  adam = optax.scale_by_adam(b1, b2)

  def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    _, state = adam.update(grads, state, params)
    t = state.count
    one = lambda m, v: (
      jnp.sqrt(1 - b2 ** t.astype(v.dtype))
      / (1 - b1 ** t.astype(m.dtype))
      * m
      / (jnp.sqrt(v) + eps)
    )
    return jax.tree.map(one, state.mu, state.nu), state

  return optax.GradientTransformation(adam.init, update)


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
  the parameter's size, and there is no first moment. Second moments are
  factored where two dims are 128 or more.
  """

  decay_power: float = field(0.8, "second moments decay at 1 - t^-power", low=0)
  update_clip: float = field(
    1.0, "root mean square that updates keep to", low=0
  )

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    return [
      optax.scale_by_factored_rms(decay_rate=self.decay_power),
      _clip_each_layer(self.update_clip, suffixes),
      *self._decayed(rate, suffixes),
    ]


def _clip_each_layer(
  limit: float, suffixes: Any
) -> optax.GradientTransformation:
  """Scales an update down to a root mean square, each stacked layer apart."""

  def one(suffix: str, u: Any) -> Any:
    if u is None:
      return None
    dims = tuple(range(1 if suffix.startswith("L") else 0, u.ndim))
    rms = jnp.sqrt((u * u).mean(dims, keepdims=True))
    return u / jnp.maximum(rms / limit, 1.0)

  return optax.stateless(
    lambda updates, params: jax.tree.map(one, suffixes, updates)
  )


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
  """Orthogonalised momentum for the blocks' matrices, Adam for the rest.

  Nesterov momentum; see `muon.orthogonalise`. One learning rate and one decay
  serve both. Each layer's matrix is its own.
  """

  momentum: float = field(0.95, "decay of the momentum", low=0, high=1)
  b1: float = field(0.9, "of Adam", low=0, high=1)
  b2: float = field(0.95, "of Adam", low=0, high=1)
  eps: float = field(1e-8, "of Adam", low=0)

  def _scale(self, rate: optax.Schedule, suffixes: Any) -> list:
    hidden = jax.tree.map(muon.is_hidden, suffixes)
    momentum = optax.chain(
      optax.trace(self.momentum, nesterov=True), muon.orthogonalise(suffixes)
    )
    adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
    return [
      optax.masked(momentum, hidden),
      optax.masked(adam, jax.tree.map(operator.not_, hidden)),
      *self._decayed(rate, suffixes),
    ]
