"""Every position of every row has one place, in its own part."""

import numpy as np
import pytest

from llm_jax import fitting
from llm_jax.training import step

T = 10


def rows(size_B, begin_B=None):
  size_B = np.asarray(size_B)
  begin_B = np.zeros_like(size_B) if begin_B is None else begin_B
  at_T = np.arange(T)
  there = (at_T >= begin_B[:, None]) & (at_T < (begin_B + size_B)[:, None])
  return {"segment_BT": there.astype(np.int32)}


CUTS = [
  fitting.Cuts(),
  fitting.Cuts(devices=2),
  fitting.Cuts(microbatches=2, together=2),
  fitting.Cuts(devices=2, microbatches=3, together=2),
]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("counts", [2, 24])
def test_all_are_placed_once_and_in_their_part(cuts, counts):
  r = np.random.default_rng(0)
  size_B = r.integers(0, 5, 24)
  batch = rows(size_B, r.integers(0, T - size_B + 1))
  place = fitting.placed(batch, counts, cuts, T)
  n, g = cuts.microbatches, cuts.together
  assert len(place) < 24 and not len(place) % (n * g * cuts.devices)
  assert counts > 2 or len(place) == 12
  # As a step cuts it, and as devices do.
  parts = step.cut({"place": place, **batch}, n, g)
  for place_RT, segment_BT in zip(
    np.asarray(parts["place"]), np.asarray(parts["segment_BT"]), strict=True
  ):
    found = place_RT[place_RT >= 0]
    np.testing.assert_array_equal(
      np.sort(found), np.flatnonzero(segment_BT.reshape(-1))
    )
    size = segment_BT.size // cuts.devices
    for i, its in enumerate(np.split(place_RT, cuts.devices)):
      assert (its[its >= 0] // size == i).all()
    for row in place_RT:  # in order, and of one row side by side
      held = row[row >= 0]
      assert (row[: len(held)] >= 0).all()
      for b in np.unique(held // T):
        own = np.flatnonzero(held // T == b)
        assert (np.diff(own) == 1).all() and (np.diff(held[own]) == 1).all()


def test_nothing_is_packed_where_it_would_be_no_less():
  cuts = fitting.Cuts()
  assert fitting.placed(rows([6] * 8), 8, cuts, T) is None
  assert len(fitting.placed(rows([5] * 8), 8, cuts, T)) == 4
  assert fitting.placed(rows([5] * 8), 8, cuts, 5) is None  # cut it is as much
  assert fitting.placed(rows([5] * 7 + [6]), 1, cuts, T) is None
  # A part that has more than the others makes all as large.
  two = fitting.Cuts(devices=2)
  size_B = np.array([6] * 4 + [2] * 4)
  assert fitting.placed(rows(size_B), 8, two, T) is None
  dealt = fitting.dealt(size_B, two)
  assert len(fitting.placed(rows(size_B[dealt]), 8, two, T)) == 4


@pytest.mark.parametrize("cuts", CUTS)
def test_what_is_dealt_is_all_and_even(cuts):
  size_B = np.random.default_rng(1).integers(1, 9, 24)
  order = fitting.dealt(size_B, cuts)
  assert sorted(order) == list(range(24))
  together = order.reshape(-1, cuts.together)
  assert (np.diff(together, axis=1) == 1).all()
  assert not (together[:, 0] % cuts.together).any()
  parts, before = (
    x_B[cuts.parts(24)].reshape(cuts.devices * cuts.microbatches, -1)
    for x_B in (size_B[order], size_B)
  )
  assert np.ptp(parts.sum(1)) <= np.ptp(before.sum(1))
  assert np.ptp(parts.sum(1)) <= 2 * size_B.max()
