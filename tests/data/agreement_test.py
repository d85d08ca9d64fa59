"""Agreement: published examples worked by hand, other libraries, and who is
named as poor."""

import json
import pathlib

import numpy as np
import pytest

from llm_jax.data import agreement
from llm_jax.data.conversation import Message
from llm_jax.data.preference import Preference

GOLDENS = json.loads(
  (pathlib.Path(__file__).parent.parent / "goldens/agreement.json").read_text()
)
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C:
# four observers, twelve units, 0 = no value; alpha = 0.743.
OBSERVED = [
  [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
  [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
  [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
  [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
# The worked example of the article "Fleiss' kappa" of Wikipedia: ten subjects,
# fourteen raters; kappa = 0.210.
SUBJECTS = [
  [0, 0, 0, 0, 14],
  [0, 2, 6, 4, 2],
  [0, 0, 3, 5, 6],
  [0, 3, 9, 2, 0],
  [2, 2, 8, 1, 1],
  [7, 7, 0, 0, 0],
  [3, 2, 6, 3, 0],
  [2, 5, 3, 2, 2],
  [6, 5, 2, 1, 0],
  [0, 2, 2, 3, 7],
]
# That of "Cohen's kappa": 20 and 15 of 50 grants alike, 5 and 10 not; 0.4.
FIRST = [1] * 25 + [0] * 25
SECOND = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15


def counts(said, there=None, values=(-1, 0, 1)):
  said = np.array(said)
  there = np.ones_like(said, bool) if there is None else np.array(there)
  return np.stack([((said == v) & there).sum(0) for v in values], 1)


def test_published_examples():
  observed = counts(OBSERVED, values=range(1, 6))
  assert agreement.krippendorff(observed) == pytest.approx(0.743, abs=5e-4)
  assert agreement.fleiss(np.array(SUBJECTS)) == pytest.approx(0.210, abs=5e-4)
  assert agreement.cohen(FIRST, SECOND) == pytest.approx(0.4, abs=1e-12)


@pytest.mark.parametrize("case", GOLDENS)
def test_as_other_libraries(case):
  said = case["said"]
  near = lambda x: pytest.approx(x, abs=1e-12)
  assert agreement.cohen(said[0], said[1]) == near(case["cohen"])
  assert agreement.fleiss(counts(said)) == near(case["fleiss"])
  assert agreement.krippendorff(counts(said)) == near(case["alpha"])
  some = counts(said, case["there"])
  assert agreement.krippendorff(some) == near(case["alpha_of_some"])
  # Mutants: no chance, or a unit with one value counted.
  assert np.mean(np.equal(said[0], said[1])) != near(case["cohen"])
  assert agreement.fleiss(counts(said)) != near(case["alpha"])


def test_laws():
  assert agreement.cohen([1, 0, 1], [1, 0, 1]) == 1
  assert agreement.cohen([1, 0], [0, 1]) == -1
  assert agreement.krippendorff(counts([[1, 0], [1, 0]])) == 1
  same = counts([[1, 1], [1, 1]])  # nothing that chance could miss
  assert np.isnan(agreement.krippendorff(same))
  assert np.isnan(agreement.fleiss(same))
  assert np.isnan(agreement.cohen([1, 1], [1, 1]))
  many = np.random.default_rng(0).choice([-1, 1], (2, 20000))
  assert abs(agreement.cohen(*many)) < 0.03


def judged(*units):
  """Of pairs of completions: {name: verdict} each."""
  found = agreement.Judgements()
  for i, unit in enumerate(units):
    values = tuple((float(v), 0.0) for v in unit.values())
    ask = (Message("user", str(i)),)
    found.add(Preference(ask, ("a", "b"), "order", values, tuple(unit)))
  return found.judged()


def test_poor_labellers_are_named_by_what_the_others_say():
  units = [
    {"ann": v, "bob": v, "cat": v if i % 10 else -v, "dan": -v}
    for i, v in enumerate([1, -1, 1, 1] * 10)
  ]
  found = judged(*units)
  assert found.num_units == 40
  assert found.poor(0.6) == ["dan"]
  assert found.labellers["dan"] == [40, 0.0]
  count, share = found.labellers["cat"]
  assert (count, share) == (40, 0.9)
  # Where cat is wrong, so are two of the three that ann is measured by.
  assert found.labellers["ann"] == [40, 0.9]
  assert found.cohen is None and found.fleiss is not None
  assert "less often than 0.6: dan (0.00 of 40)" in found.said(0.6)
  assert "Fleiss' kappa" in found.said(0) and "dan" not in found.said(0)
  # Mutant: with itself among the majority it would be 1, as 1 : 1 is none.
  two = judged(*({"ann": 1, "bob": v} for v in (1, -1) * 5))
  assert two.labellers["bob"] == [10, 0.5]
  assert two.cohen is not None


def test_what_cannot_be_said_is_not():
  assert judged() == agreement.Judged(0)
  assert judged({"ann": 1}).num_units == 0
  some = judged({"ann": 1, "bob": -1}, {"ann": 1, "bob": 1, "cat": -1})
  assert some.fleiss is None and some.alpha is not None
  same = judged({"ann": 1, "bob": 1})
  assert same[1:4] == (None, None, None)
  assert same.said(0.6) == "2 labellers judged 1 pairs together"
  tie = judged({"ann": 1, "bob": 1, "cat": -1})
  assert set(tie.labellers) == {"cat"}  # for the others it stands 1 : 1
