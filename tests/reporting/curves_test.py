import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from llm_jax.reporting import curves
from llm_jax.reporting.curves import Line


def test_thinning_keeps_ends_spikes_and_gaps():
  x = np.arange(10_000)
  y = np.sin(x / 900)
  y[4321], y[7654] = 40.0, -40.0
  y[2000:2100] = math.nan
  thin_x, thin_y = curves.thin(x, y, most=400)
  assert len(thin_x) <= 402 and (np.diff(thin_x) > 0).all()
  assert thin_x[0] == 0 and thin_x[-1] == 9999
  assert 4321 in thin_x and 7654 in thin_x
  assert np.isnan(thin_y[(thin_x >= 2000) & (thin_x < 2100)]).any()
  np.testing.assert_array_equal(thin_y, y[thin_x.astype(int)])
  # The mutant: every n-th point.
  assert np.nanmax(y[:: 10_000 // 400]) < 2


def test_infinities_are_gaps():
  _, y = curves.thin([1, 2, 3], [1.0, math.inf, -math.inf])
  np.testing.assert_array_equal(y, [1.0, math.nan, math.nan])


def test_smoothing_by_a_naive_loop():
  y = np.random.default_rng(0).normal(size=200)
  y[50], y[51] = math.nan, math.inf
  half = 4
  expected = []
  for i in range(200):
    near = y[max(0, i - half) : i + half + 1]
    expected.append(near[np.isfinite(near)].mean())
  np.testing.assert_allclose(curves.smooth(y, 2 * half / 200), expected)


def test_a_falling_curve_is_not_shown_late():
  y = np.linspace(9, 1, 500)
  inner = slice(20, -20)
  np.testing.assert_allclose(curves.smooth(y)[inner], y[inner])
  late = np.convolve(y, np.ones(11) / 11)[:500]  # the mutant: only the past
  assert (late[inner] > y[inner] + 0.05).all()


def _lines(values, **kwargs):
  return [Line("a", range(1, len(values) + 1), values, "first", **kwargs)]


@pytest.mark.parametrize(
  ("values", "zero"),
  [
    ([3.0], True),
    ([3.0], False),
    ([0.0, 0.0], True),
    ([0.0, 0.0], False),
    ([1.0, math.nan, 2.0], True),
    ([1.0, math.nan, 2.0], False),
    ([1e-9, 1e9], True),
    ([1e-9, 1e9], False),
    ([-1.0, 5.0], False),
    ([7.0] * 9, False),
  ],
)
def test_every_curve_can_be_drawn(values, zero):
  lines = [*_lines(values), Line("b", [], [2.0], "third")]
  svg = curves.draw("loss", lines, zero=zero)
  root = ET.fromstring(svg.replace("xlink:href", "href"))
  assert root.tag == "svg" and root.get("aria-label") == "loss"


def test_colours_and_names_are_left_to_the_page():
  a = curves.draw("loss", _lines([3.0, 2.0, 1.0]))
  b = curves.draw("rate", _lines([3.0, 2.0, 1.0]), zero=True)
  assert "var(--first)" in a and "currentColor" in a
  assert not re.search(r"#[0-9a-f]{6}\b", a + b)  # no colour of its own
  assert ">step</text>" in a  # text is text
  assert "http" not in a + b and "<style" not in a + b
  ids = [re.findall(r' id="([^"]+)"', svg) for svg in (a, b)]
  assert ids[0] and ids[1]
  assert len({*ids[0], *ids[1]}) == len(ids[0]) + len(ids[1])


def test_the_same_run_gives_the_same_picture():
  draw = lambda: curves.draw("loss", _lines([3.0, 2.0, 1.0]))
  assert draw() == draw()


def test_a_long_curve_is_a_small_picture():
  values = np.random.default_rng(0).normal(5, 1, 10_000)
  assert len(curves.draw("loss", _lines(values))) < 40_000


def test_the_scale_of_a_square_root_marks_what_can_be_read():
  line = Line("a", [0.0, 1.2, 22.0, 57.0], [7.3, 7.6, 7.4, 7.1], "first")
  svg = curves.draw("x", [line], linear=True, across="KL", root=True)
  shown = [float(x) for x in re.findall(r">([\d.]+)</text>", svg)]
  assert {0, 2, 5, 10, 20, 50} <= set(shown) and not {100, 1} & set(shown)
  # Places of the points: as the roots, not as the numbers.
  plain = curves.draw("x", [line], linear=True, across="KL")
  for text, scale in ((svg, np.sqrt), (plain, np.asarray)):
    places = re.findall(r'<use xlink:href="[^"]*" x="([\d.]+)"', text)
    found = np.array(list(map(float, places[: len(line.steps)])))
    want = scale(np.array(line.steps))
    got = (found - found[0]) / (found[-1] - found[0])
    np.testing.assert_allclose(got, want / want[-1], atol=1e-3)


def test_an_estimate_of_a_kl_may_be_negative():
  line = Line("a", [-0.02, 0.0], [0.3, 0.6], "first", notes=["", "b"])
  svg = curves.draw("x", [line], linear=True, across="KL", root=True)
  assert ">b</text>" in svg and "nan" not in svg
