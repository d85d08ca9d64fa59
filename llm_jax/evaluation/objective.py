"""What an objective says of a split, exactly as of one batch.

A split is cut as a batch is cut into microbatches: each part is annotated, all
are weighed together, and the losses of the parts add up. So neither the size
of a part nor what else is in it matters. What an objective compares with its
batch (the baseline of KTO, the mean of BCO, the quantiles of AOT) is of the
whole split here, and of one batch in training.

Dimension key: B rows of a part; S completions of a row; G prompts; K rows of
each.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax import axes
from llm_jax.contracts import (
  asking,
  Batch,
  Forward,
  Metrics,
  Objective,
  Progress,
  Roles,
)
from llm_jax.evaluation.pairs import Completions
from llm_jax.ops import slots
from llm_jax.ops.metrics import Mean

_IDS = ("tokens_BT", "target_BT", "asked_BT")  # which weigh nothing


def quietly(items: Iterable[Any], **about: Any) -> Iterator[Any]:
  """The same items, without a bar."""
  del about
  return iter(items)


class Teller:
  """What an objective says of batches.

  Args:
    objective: without dropout.
    forward: role -> its forward.
    place: a host batch -> the global one, on its devices.
  """

  def __init__(
    self,
    objective: Objective,
    forward: Forward,
    place: Callable[[Batch], Batch],
  ):
    self._place = place
    about = lambda batch: asking(objective, batch)
    self._ask = jax.jit(lambda r, b: ask(objective, forward, r, about(b)))
    self._weigh = jax.jit(lambda batch: _whole(objective.weigh(batch)))
    told = lambda r, b: totals(objective, forward, r, about(b))
    rows = lambda r, b: completions(objective, forward, r, about(b))
    self._told, self._rows = jax.jit(told), jax.jit(rows)
    # At once: the compiler may share the forwards.
    self._both = jax.jit(lambda r, b: (told(r, b), rows(r, b)))

  def __call__(
    self,
    roles: Roles,
    batches: Iterable[Batch],
    rewards: bool = False,
    progress: Progress = quietly,
    label: str = "",
  ) -> tuple[dict[str, float], list[Any]]:
    """Every example counts once: metrics, "loss" among them, and rewards.

    Args:
      roles: role -> variables.
      batches: this process's rows, as many in each, of one width or several.
      rewards: return what `completions` says of each batch, too.
      progress: what wraps a loop, for a bar.
      label: whose bar it is.

    Raises:
      ValueError: there is no example.
    """
    host, kept = list(batches), []
    sums: Metrics = {}
    bar = lambda what: progress(host, total=len(host), label=f"{what} {label}")
    asked = [
      jax.device_get(self._ask(roles, self._place(batch)))
      for batch in bar("weighing")
    ]
    columns, at = _columns(self._weigh, asked, host), 0
    for batch, its in zip(bar("evaluating"), asked, strict=True):
      size, width = its["mask_BT"].shape
      here = {
        name: x[at : at + size, :width] if _is_wide(name) else x[at : at + size]
        for name, x in columns.items()
      }
      at += size
      given = {**self._place(batch), **here}
      found = self._both(roles, given) if rewards else self._told(roles, given)
      if rewards:
        found, rows = found
        kept.append(rows)
      wide = jax.tree.map(np.float64, jax.device_get(found))
      for name, mean in wide.items():
        sums[name] = sums[name] + mean if name in sums else mean
    return {name: mean.compute() for name, mean in sums.items()}, kept

  def rewards(
    self,
    roles: Roles,
    batches: Iterable[Batch],
    progress: Progress = quietly,
    label: str = "",
  ) -> list[Any]:
    """What `completions` says of each batch."""
    host = list(batches)
    bar = progress(host, total=len(host), label=f"comparing {label}")
    return [self._rows(roles, self._place(batch)) for batch in bar]


def ask(
  objective: Objective, forward: Forward, roles: Roles, batch: Batch
) -> Batch:
  """What `weigh` reads of one batch, whole on every device."""
  found = objective.annotate(forward, roles, batch)
  return _whole({k: x for k, x in found.items() if k not in _IDS})


def _whole(batch: Batch) -> Batch:
  """The same, whole on every device, so that every process can read it."""
  return {name: axes.constrain(x, "_" * x.ndim) for name, x in batch.items()}


def _columns(
  weigh: Callable[[Batch], Batch], asked: Sequence[Batch], host: list[Batch]
) -> dict[str, np.ndarray]:
  """What annotating and weighing add to a split, by name."""
  if not any(its["mask_BT"].any() for its in asked):
    raise ValueError("there is no example to evaluate on")
  most = max(its["mask_BT"].shape[1] for its in asked)
  whole = {
    name: np.concatenate([_widened(name, its[name], most) for its in asked])
    for name in asked[0]
  }
  found = jax.device_get(weigh(whole))
  return {name: x for name, x in found.items() if name not in host[0]}


def _is_wide(name: str) -> bool:
  """Whether an array has a number for each position, beside each row."""
  return name.rpartition("_")[2].startswith("BT")


def _widened(name: str, x: np.ndarray, width: int) -> np.ndarray:
  """Positions that a batch was cut by are nothing: zeros, masked."""
  if not _is_wide(name):
    return x
  more = [(0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
  return np.pad(x, more)


def totals(
  objective: Objective, forward: Forward, roles: Roles, batch: Batch
) -> Metrics:
  """Metrics of a batch that is weighed, its part of the loss among them."""
  batch = {
    name: axes.constrain(x, "B" + "_" * (x.ndim - 1))
    for name, x in batch.items()
  }
  value, metrics = objective.loss(forward, roles, batch, None)
  return metrics | {"loss": Mean.sum(value)}


def completions(
  objective: Objective, forward: Forward, roles: Roles, batch: Batch
) -> dict[str, jax.Array] | None:
  """Rewards, lengths and ranks of one batch's rows; pure, to be compiled.

  They are [B], or [B, S] where a row has several completions. Without ranks
  rows are pairs, or with classes each is alone. None where the objective has no
  rewards.
  """
  reward = objective.rewards(forward, roles, batch)
  if reward is None:
    return None
  length = slots.lengths(batch)
  rank = slots.column(batch, "rank")
  if rank is None:  # chosen and rejected, or one alone
    alone = slots.column(batch, "class") is not None
    second_B = jnp.arange(len(length)) % (1 if alone else 2)
    rank = jnp.expand_dims(second_B, range(1, length.ndim))
  found = {
    "reward": reward,
    "length": length,
    "rank": jnp.where(length > 0, rank, -1),
  }
  return dict(_whole(found))


def gather(
  rows: Iterable[dict[str, jax.Array] | None], together: int
) -> Completions | None:
  """What `completions` says of batches; `together` rows, K, are of a prompt."""
  found = []
  for its in rows:
    if its is None:
      return None
    host = jax.device_get(its)
    found.append({k: _by_prompt(x, together) for k, x in host.items()})
  if not found:
    raise ValueError("there is no example to evaluate on")
  whole = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
  return Completions(whole["reward"], whole["length"], whole["rank"])


def _by_prompt(x: np.ndarray, together: int) -> np.ndarray:
  """[B] or [B, S] as [G, K]."""
  size = x[0].size
  x_GKS = x.reshape(-1, together, size)
  return x_GKS.swapaxes(1, 2).reshape(-1, together)
