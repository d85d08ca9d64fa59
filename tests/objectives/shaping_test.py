"""Scores are scaled, clipped, and lose for a lacking end, in that order."""

import numpy as np
import pytest

from llm_jax.objectives.shaping import Shaping
from llm_jax.ops.moments import Moments

FIRST = np.array([1.0, 3.0, 5.0, 7.0])
SECOND = np.array([-20.0, 0.0, 20.0, 40.0])
ENDED = np.array([True, True, True, False])


def learned(**settings):
  """Scores of two updates, and what is known after them."""
  shaping, moments, out = Shaping(**settings), Moments(), []
  for found_B in (FIRST, SECOND):
    moments = shaping.seen(moments, found_B)
    out.append(shaping.scores(found_B, ENDED, moments))
  return out, moments


def trlx(found, seen, cut=np.inf):
  """`scores /= std`, unbiased, then clipped."""
  return np.clip(found / np.std(seen, ddof=1), -cut, cut)


BOTH = np.concatenate([FIRST, SECOND])


def test_scores_are_scaled_by_what_was_seen():
  keep = {"missing_eos": "keep"}
  (one, two), _ = learned(scale="running", **keep)
  np.testing.assert_allclose(one, trlx(FIRST, FIRST))
  np.testing.assert_allclose(two, trlx(SECOND, BOTH))
  (one, two), _ = learned(scale="first", **keep)
  np.testing.assert_allclose(one, trlx(FIRST, FIRST))
  np.testing.assert_allclose(two, trlx(SECOND, FIRST))
  # The mutants: each update by itself, and by what was seen before it.
  for seen in (SECOND, FIRST):
    assert np.abs(trlx(SECOND, seen) - trlx(SECOND, BOTH)).max() > 0.1
  (one, two), moments = learned(**keep)
  assert (one == FIRST).all() and (two == SECOND).all() and not moments.size


def test_they_are_centred_where_asked_to():
  (_, two), _ = learned(scale="running", centre=True, missing_eos="keep")
  want = (SECOND - BOTH.mean()) / BOTH.std(ddof=1)
  np.testing.assert_allclose(two, want)


def test_a_clip_is_of_what_is_scaled_and_a_penalty_of_neither():
  given = {"scale": "first", "clip": 2.0, "penalty": 9.0}
  (_, two), _ = learned(missing_eos="subtract", **given)
  want = trlx(SECOND, FIRST, 2.0) - 9.0 * ~ENDED
  np.testing.assert_allclose(two, want)
  assert two.tolist() == [-2, 0, 2, -7]
  # The mutant: clipped, then scaled.
  early = np.clip(SECOND, -2, 2) / FIRST.std(ddof=1)
  assert np.abs(early[:3] - two[:3]).max() > 1
  (_, two), _ = learned(missing_eos="replace", **given)
  assert two.tolist() == [-2, 0, 2, -9]


def test_scores_that_are_all_one_stay():
  shaping = Shaping(scale="running", missing_eos="keep")
  same = np.full(4, 0.5)
  moments = shaping.seen(Moments(), same)
  np.testing.assert_array_equal(shaping.scores(same, ENDED, moments), same)


def test_a_mean_of_nothing_is_told():
  with pytest.raises(ValueError, match="--shaping.centre=true: the mean"):
    Shaping(centre=True)
