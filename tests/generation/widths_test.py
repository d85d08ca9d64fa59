"""What is in rows stays in them, whatever their width."""

import numpy as np
import pytest

from llm_jax.generation import widths


@pytest.mark.parametrize("n", [1, 3, 4, 50])
def test_a_width_is_the_least_of_a_few_that_has_room(n):
  found = [widths.of(needed, 22, n) for needed in range(1, 23)]
  assert len(set(found)) <= n and max(found) == 22
  for needed, width in enumerate(found, 1):
    assert needed <= width
    assert not any(needed <= other < width for other in found)


def rows():
  """Three of T = 9, which have something at 2..6, at 5..9 and nowhere."""
  segment = np.zeros((3, 9), np.int32)
  segment[0, 2:6] = segment[1, 5:] = 1
  x = np.random.default_rng(0).normal(size=(3, 9))
  return {"segment_BT": segment, "x_BT": x, "score_B": np.arange(3.0)}


def test_rows_moved_to_the_left_hold_what_they_held():
  given = rows()
  moved = widths.to_the_left(given, 12)
  assert moved["segment_BT"].tolist()[:2] == [[1] * 4 + [0] * 8] * 2
  np.testing.assert_array_equal(moved["x_BT"][0, :4], given["x_BT"][0, 2:6])
  np.testing.assert_array_equal(moved["x_BT"][1, :4], given["x_BT"][1, 5:])
  assert not moved["x_BT"][1, 4:].any()  # not what stands before it, again
  assert moved["x_BT"].shape == (3, 12)
  assert moved["score_B"] is given["score_B"]


def test_nothing_that_counts_is_cut():
  moved = widths.to_the_left(rows(), 12)
  for n, width in ((1, 12), (2, 6), (3, 4), (12, 4)):
    cut = widths.cut(moved, 12, n)
    assert cut["x_BT"].shape == (3, width)
    np.testing.assert_array_equal(cut["x_BT"], moved["x_BT"][:, :width])
    assert cut["segment_BT"].sum() == 8
  # Rows as they were drawn, aligned on the right, stay whole.
  assert widths.cut(rows(), 9, 4)["x_BT"].shape == (3, 9)
