"""What a classifier says of a split: what is right, and how surely.

Dimension key: M completions, or texts; O classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from llm_jax import axes
from llm_jax.contracts import Batch
from llm_jax.evaluation import calibration


class Classified(NamedTuple):
  """Completions of a split."""

  logp_MO: np.ndarray  # of each class, nats
  class_M: np.ndarray  # the true one


def rows(logp_BO: jax.Array, batch: Batch) -> tuple[jax.Array, ...]:
  """What `gather` reads of a batch; whole on every device."""
  there_B = batch["mask_BT"].any(-1)
  found = (logp_BO, batch["class_B"], there_B)
  return tuple(axes.constrain(x, "_" * x.ndim) for x in found)


def gather(found: Iterable[tuple[jax.Array, ...]]) -> Classified:
  """The completions of batches. ValueError where there is none."""
  host = [jax.device_get(its) for its in found]
  parts = [(logp[there], known[there]) for logp, known, there in host]
  if not sum(len(known) for _, known in parts):
    raise ValueError("there is no completion to evaluate on")
  logp, known = (np.concatenate(x) for x in zip(*parts, strict=True))
  return Classified(logp.astype(np.float64), known)


def measure(found: Classified) -> dict[str, float]:
  """Figures of a split.

  Returns:
    accuracy   share of completions whose likeliest class is the true one
    macro_f1   mean over classes of `of_each`'s f1, those that neither are nor
               are said left out; the micro mean is the accuracy
    matthews   correlation of what is said and what is true (Gorodkin 2004,
               eq. 8; of two classes that of Matthews 1975), 0 where one side
               is constant
    ece        expected calibration error, see `confidence`
    examples   how many
  """
  return _of(found.class_M, found.logp_MO.argmax(1)) | {
    "ece": confidence(found).error,
    "examples": float(len(found.class_M)),
  }


def baselines(found: Classified) -> dict[str, dict[str, float]]:
  """Always the class that the split has most of."""
  most = np.bincount(found.class_M).argmax()
  return {"majority": _of(found.class_M, np.full_like(found.class_M, most))}


def confidence(found: Classified) -> calibration.Calibration:
  """The probability of the likeliest class, from 1 / O to 1."""
  sure_M = np.exp(found.logp_MO.max(1))
  right_M = found.logp_MO.argmax(1) == found.class_M
  weight_M = np.full(len(sure_M), 1 / len(sure_M))
  return calibration.of(sure_M, right_M, weight_M, 1 / found.logp_MO.shape[1])


def of_each(found: Classified, names: Sequence[str]) -> list[dict[str, Any]]:
  """Name, examples, precision, recall and F1 of each class, as JSON.

    precision = of those said to be of it, the share that are
    recall = of those that are, the share said to be
    f1 = their harmonic mean

  What would divide by nothing is left out.
  """
  said_M = found.logp_MO.argmax(1)
  return described(_parts(found.class_M, said_M, len(names)), names)


def described(
  parts_3O: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
  """The same of how many both are and are said, are said, and are."""
  return [
    {
      "class": name,
      "examples": int(true),
      "precision": _share(both, said),
      "recall": _share(both, true),
      "f1": _share(2 * both, said + true),
    }
    for name, (both, said, true) in zip(names, parts_3O.T.tolist(), strict=True)
  ]


def _of(class_M: np.ndarray, said_M: np.ndarray) -> dict[str, float]:
  count = 1 + int(max(class_M.max(), said_M.max()))
  both_O, said_O, true_O = _parts(class_M, said_M, count)
  any_O = said_O + true_O > 0
  f1_O = 2 * both_O[any_O] / (said_O + true_O)[any_O]
  return {
    "accuracy": float((class_M == said_M).mean()),
    "macro_f1": float(f1_O.mean()),
    "matthews": _matthews(both_O.sum(), said_O, true_O),
  }


def _matthews(right: float, said_O: np.ndarray, true_O: np.ndarray) -> float:
  """(M c - sum p t) / sqrt((M^2 - sum p^2) (M^2 - sum t^2))."""
  M, said_O, true_O = float(true_O.sum()), said_O * 1.0, true_O * 1.0
  below = (M**2 - (said_O**2).sum()) * (M**2 - (true_O**2).sum())
  above = M * float(right) - (said_O * true_O).sum()
  return float(above / below**0.5) if below > 0 else 0.0


def _parts(class_M: np.ndarray, said_M: np.ndarray, count: int) -> np.ndarray:
  """Of each class, how many are said and are, are said, and are: [3, O]."""
  number = lambda x_M: np.bincount(x_M, minlength=count)
  both_M = class_M[class_M == said_M]
  return np.stack([number(both_M), number(said_M), number(class_M)])


def _share(some: float, all_: float) -> float | None:
  return some / all_ if all_ else None
