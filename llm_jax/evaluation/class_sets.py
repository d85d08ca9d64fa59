"""What is said of texts that are of several classes, or of none.

Dimension key: M texts; O classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_jax.evaluation import classes


class Told(NamedTuple):
  """Texts of a split."""

  said_MO: np.ndarray  # bool: the class is said
  is_MO: np.ndarray  # bool: it is true

  @property
  def parts_3O(self) -> np.ndarray:
    """Of each class, how many both are and are said; are said; are."""
    both_MO = self.said_MO & self.is_MO
    return np.stack([x.sum(0) for x in (both_MO, self.said_MO, self.is_MO)])


def measure(found: Told) -> dict[str, float]:
  """Figures of a split.

  Returns:
    accuracy   share of texts of which all classes are right
    micro_f1   2 both / (said + true), of all classes together
    macro_f1   mean of the same of each class, those that neither are nor are
               said left out
    examples   how many
  """
  both_O, said_O, true_O = found.parts_3O
  there_O = said_O + true_O > 0
  f1_O = 2 * both_O[there_O] / (said_O + true_O)[there_O]
  count = int((said_O + true_O).sum())
  return {
    "accuracy": float((found.said_MO == found.is_MO).all(1).mean()),
    "micro_f1": float(2 * both_O.sum() / count) if count else 0.0,
    "macro_f1": float(f1_O.mean()) if count else 0.0,
    "examples": float(len(found.is_MO)),
  }


def baselines(found: Told) -> dict[str, dict[str, float]]:
  """Always the classes that more than half of the split's texts are of."""
  most_O = found.is_MO.mean(0) > 0.5
  always = Told(np.broadcast_to(most_O, found.is_MO.shape), found.is_MO)
  figures = measure(always)
  del figures["examples"]
  return {"majority": figures}


def of_each(found: Told, names: Sequence[str]) -> list[dict[str, Any]]:
  """Name, examples, precision, recall and F1 of each class, as JSON."""
  return classes.described(found.parts_3O, names)
