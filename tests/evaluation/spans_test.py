"""The best spans are those of all that there are."""

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np

from llm_jax.evaluation import spans

numbers = st.integers(-50, 50).map(float)


def slowly(start, end, longest):
  return sorted(
    (-(s + e), i, j)
    for i, s in enumerate(start)
    for j, e in enumerate(end)
    if i <= j < i + longest
  )


@hypothesis.settings(deadline=None)
@hypothesis.given(
  arrays.arrays(
    np.float64, st.tuples(st.integers(0, 9), st.just(2)), elements=numbers
  ),
  st.integers(1, 10),
  st.integers(1, 60),
)
def test_they_are_found_as_a_loop_finds_them(scores, longest, count):
  start, end = scores.T
  found = spans.best(start, end, longest, count)
  want = slowly(start, end, longest)
  assert [-s.score for s in found] == [score for score, *_ in want[:count]]
  every = spans.best(start, end, longest, 10**6)
  assert [(-s.score, s.first, s.last) for s in every] == want


def test_mutant_the_best_start_and_the_best_end_alone():
  """They may be the wrong way round, or too far apart."""
  start, end = np.array([0.0, 9, 5]), np.array([9.0, 0, 5])
  (best,) = spans.best(start, end, 30, 1)
  assert (best.first, best.last) == (1, 2) != (start.argmax(), end.argmax())
  far = np.array([9.0, 0, 0, 0]), np.array([0.0, 1, 0, 9])
  assert spans.best(*far, 2, 1)[0] == spans.Span(10.0, 0, 1)
  assert spans.best(*far, 4, 1)[0] == spans.Span(18.0, 0, 3)
