"""How far several labellers agree, beyond what chance would give.

A unit is something that labellers put into categories: here a pair of
completions, of which the first is better (1), the second (-1) or neither (0).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llm_jax.data.preference import Preference


def cohen(first: Sequence[int], second: Sequence[int]) -> float:
  """Cohen's kappa of two labellers of the same units; Cohen 1960, eq. 1.

    kappa = (p_o - p_e) / (1 - p_e)

  with p_o the share of units they agree on and p_e what it would be if each
  kept only their own shares of categories. NaN where p_e is 1.
  """
  a, b = np.asarray(first), np.asarray(second)
  kinds = np.union1d(a, b)
  expected = sum((a == k).mean() * (b == k).mean() for k in kinds)
  return _beyond((a == b).mean(), expected)


def fleiss(counts_NK: np.ndarray) -> float:
  """Fleiss' kappa, of any number of labellers; Fleiss 1971, eq. 7.

  Args:
    counts_NK: [units, categories], how many labellers chose each; every unit
      has as many labellers, two or more. They need not be the same ones.
  """
  n = counts_NK.sum(1)[0]
  agreed = ((counts_NK**2).sum(1) - n) / (n * (n - 1))
  shares = counts_NK.sum(0) / counts_NK.sum()
  return _beyond(agreed.mean(), (shares**2).sum())


def krippendorff(counts_NK: np.ndarray) -> float:
  """Krippendorff's alpha of categories; Krippendorff 2011, section C.

    alpha = 1 - (n - 1) sum_u (n_u^2 - sum_c n_uc^2) / (n_u - 1)
                / (n^2 - sum_c n_c^2)

  Args:
    counts_NK: [units, categories], how many labellers chose each; a unit with
      fewer than two counts for nothing.
  """
  counts_NK = counts_NK[counts_NK.sum(1) > 1]
  per_unit = counts_NK.sum(1)
  n = per_unit.sum()
  apart = (per_unit**2 - (counts_NK**2).sum(1)) / (per_unit - 1)
  by_chance = n**2 - (counts_NK.sum(0) ** 2).sum()
  return _beyond(1 - apart.sum() / n, 1 - by_chance / (n * (n - 1)))


def _beyond(observed: float, expected: float) -> float:
  if np.isclose(expected, 1):
    return float("nan")
  return float((observed - expected) / (1 - expected))


class Judged(NamedTuple):
  """What labellers of a source have in common; None = cannot be said."""

  num_units: int  # judged by two or more
  cohen: float | None = None  # of the only two
  fleiss: float | None = None  # where all units have as many labellers
  alpha: float | None = None
  # Name -> [units on which the others have a majority, share with it].
  labellers: Mapping[str, Sequence[float]] = {}

  def poor(self, least: float) -> list[str]:
    """Labellers who are with the others' majority less often."""
    return [name for name, (_, s) in self.labellers.items() if s < least]

  def said(self, least: float) -> str:
    """All of it in words; `least` as in `poor`."""
    known = {
      "Cohen's kappa": self.cohen,
      "Fleiss' kappa": self.fleiss,
      "Krippendorff's alpha": self.alpha,
    }
    numbers = [f"{n} {x:.3f}" for n, x in known.items() if x is not None]
    poor = [
      f"{name} ({self.labellers[name][1]:.2f} of {self.labellers[name][0]:.0f})"
      for name in self.poor(least)
    ]
    said = [
      f"{len(self.labellers)} labellers judged {self.num_units} pairs together",
      *numbers,
    ]
    if poor:
      said.append(f"with the others less often than {least}: {', '.join(poor)}")
    return "; ".join(said)


class Judgements:
  """Gathers the verdicts of several labellers on the same pairs."""

  def __init__(self) -> None:
    self._units: list[dict[str, int]] = []

  def add(self, preference: Preference) -> None:
    """One preference; counts if two or more judged it."""
    if len(preference.labellers) > 1:
      for verdicts in preference.verdicts().T.tolist():
        self._units.append(
          dict(zip(preference.labellers, verdicts, strict=True))
        )

  def judged(self) -> Judged:
    """What they have in common."""
    units = self._units
    if not units:
      return Judged(0)
    counts_NK = np.array(
      [[list(u.values()).count(v) for v in (-1, 0, 1)] for u in units]
    )
    names = sorted({name for u in units for name in u})
    two = None
    if len(names) == 2:
      two = cohen(*([u[name] for u in units] for name in names))
    sizes = set(counts_NK.sum(1).tolist())
    return Judged(
      len(units),
      _known(two),
      _known(fleiss(counts_NK)) if len(sizes) == 1 else None,
      _known(krippendorff(counts_NK)),
      {name: found for name in names if (found := self._with_others(name))},
    )

  def _with_others(self, name: str) -> list[float]:
    """Of one labeller, as `Judged.labellers` has it; empty = never judged."""
    same = []
    for unit in self._units:
      if name not in unit:
        continue
      others = sum(v for n, v in unit.items() if n != name)
      if others:
        same.append(unit[name] == np.sign(others))
    return [len(same), float(np.mean(same))] if same else []


def _known(x: float | None) -> float | None:
  return None if x is None or np.isnan(x) else x
