"""Curves over steps, as SVG that takes its colours from the page."""

from collections.abc import Sequence
import dataclasses
import io
import math
import re
from typing import Any

import numpy as np

POINTS = 600  # of one line, at most
_MARKED = 30  # lines of fewer points show each of them
_RANGE = 3.0  # times the smallest value, from where an axis is logarithmic
_DECADES = 20.0  # and from where its marks are 1, 2, 5, 10, ...

# Colours that stand for the page's own, which change with its scheme.
_INK, _GRID = "#010203", "#010204"
_COLOURS = {
  _INK: "currentColor",
  _GRID: "var(--grid)",
  "#010205": "var(--first)",
  "#010206": "var(--second)",
  "#010207": "var(--third)",
  "#010208": "var(--fourth)",
  "#010209": "var(--fifth)",
}
_ROOTS = (0, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclasses.dataclass(frozen=True)
class Line:
  """One curve, or a level where `steps` is empty.

  Args:
    name: for the legend.
    steps: rising; of points that have notes, in any order.
    values: one a step; one in all for a level. Gaps where not finite.
    colour: "first", "second", "third", "fourth" or "fifth" of the page.
    last: what the legend says of it.
    faint: drawn thin or dotted, behind the others, and not in the legend.
    notes: said of each point, beside it.
    spread: standard error of each value, drawn up and down.
    aside: likewise of each step, drawn to both sides.
  """

  name: str
  steps: Sequence[float]
  values: Sequence[float]
  colour: str
  last: str = ""
  faint: bool = False
  notes: Sequence[str] = ()
  spread: Sequence[float] = ()
  aside: Sequence[float] = ()


def thin(
  steps: Sequence[float], values: Sequence[float], most: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
  """At most about `most` points with every extreme of the curve kept.

  Of each of most / 2 runs of neighbours, the lowest and the highest stay; of
  a run without a finite value, its first, so that the gap stays.
  """
  x, y = np.asarray(steps, float), np.asarray(values, float)
  y = np.where(np.isfinite(y), y, np.nan)
  if len(x) <= most:
    return x, y
  kept = {0, len(x) - 1}
  for run in np.array_split(np.arange(len(x)), most // 2):
    some = run[np.isfinite(y[run])]
    if len(some):
      kept |= {int(some[y[some].argmin()]), int(some[y[some].argmax()])}
    else:
      kept.add(int(run[0]))
  at = sorted(kept)
  return x[at], y[at]


def smooth(values: Sequence[float], share: float = 0.02) -> np.ndarray:
  """Mean of the neighbours of each value, this share of all of them.

  Half of them are before it and half after, so that a fall is not late; at
  the ends there are fewer. Values that are not finite are passed over.
  """
  y = np.asarray(values, float)
  finite = np.isfinite(y)
  sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
  counts = np.concatenate([[0], np.cumsum(finite)])
  half = max(1, round(share * len(y) / 2))
  low = np.maximum(np.arange(len(y)) - half, 0)
  high = np.minimum(np.arange(len(y)) + half + 1, len(y))
  number = counts[high] - counts[low]
  total = sums[high] - sums[low]
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def draw(
  name: str,
  lines: Sequence[Line],
  *,
  zero: bool = False,
  linear: bool = False,
  across: str = "step",
  root: bool = False,
) -> str:
  """An <svg> element of lines over steps; text stays text.

  Args:
    name: said to those who cannot see it; the same name, the same picture.
    lines: what to draw.
    zero: the axis begins at 0.
    linear: it need not; of neither, it is logarithmic where values differ
      much.
    across: what the other axis is; numbers that are not whole but for "step".
    root: that axis has the scale of a square root, in which the rewards of
      policies at a KL are about straight (arXiv:2204.05862, section 4.3).
  """
  import matplotlib.figure  # noqa: PLC0415  (slow to import)
  import matplotlib.style  # noqa: PLC0415

  look = {
    "svg.fonttype": "none",
    "svg.hashsalt": name,
    "font.size": 10.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": _GRID,
    "grid.color": _GRID,
  }
  with matplotlib.style.context(["default", look]):
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.5), layout="constrained")
    axes = figure.subplots()
    for line in lines:
      _add(axes, line)
    _frame(axes, lines, zero, linear)
    _across(axes, across)
    if root:
      _root(axes, [float(x) for line in lines for x in line.steps])
    out = io.StringIO()
    nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
  return _inline(out.getvalue(), name)


def _add(axes: Any, line: Line) -> None:
  colour = next(k for k, v in _COLOURS.items() if v == f"var(--{line.colour})")
  if not len(line.steps):
    axes.axhline(line.values[0], color=colour, lw=1.4, ls=(0, (2, 2.5)))
    return
  if line.notes:
    _add_points(axes, line, colour)
    return
  x, y = thin(line.steps, line.values)
  few = np.isfinite(y).sum() <= _MARKED
  axes.plot(
    x,
    y,
    color=colour,
    lw=1.0 if line.faint else 1.9,
    alpha=0.4 if line.faint else 1,
    marker="o" if few and not line.faint else None,
    ms=3.6,
    solid_joinstyle="round",
  )


def _add_points(axes: Any, line: Line, colour: str) -> None:
  """Points with what is said of them, joined in their order."""
  x, y = line.steps, line.values
  dots = (0, (2, 2.5)) if line.faint else "-"
  axes.plot(x, y, color=colour, lw=1.2, ls=dots, alpha=0.55, zorder=1)
  axes.errorbar(
    x,
    y,
    xerr=list(line.aside) or None,
    yerr=list(line.spread) or None,
    fmt="o",
    color=colour,
    ms=3.5 if line.faint else 5,
    elinewidth=0.9,
  )
  for at, note in zip(zip(x, y, strict=True), line.notes, strict=True):
    axes.annotate(
      note,
      at,
      xytext=(5, 5),
      textcoords="offset points",
      color=_INK,
      fontsize=9.5,
    )
  axes.margins(0.12)


def _frame(axes: Any, lines: Sequence[Line], zero: bool, linear: bool) -> None:
  from matplotlib import ticker  # noqa: PLC0415

  finite = [v for x in lines for v in x.values if math.isfinite(v)]
  if zero:
    axes.set_ylim(bottom=0, top=1.06 * max(finite) or 1)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
  elif not linear and min(finite) > 0 and max(finite) > _RANGE * min(finite):
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    wide = max(finite) > _DECADES * min(finite)
    axes.yaxis.set_major_locator(
      ticker.LogLocator(subs=(1, 2, 5))
      if wide
      else ticker.MaxNLocator(6, steps=[1, 2, 5, 10])
    )
  else:
    axes.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
  count = ticker.EngFormatter(sep="")
  plain = ticker.FuncFormatter(lambda v, _: f"{v:g}")
  large = max(finite) >= 10_000
  axes.yaxis.set_major_formatter(count if large else plain)
  axes.grid(axis="y", lw=0.8)
  axes.tick_params(length=0, pad=5)
  axes.spines[["top", "left", "right"]].set_visible(False)


def _across(axes: Any, across: str) -> None:
  from matplotlib import ticker  # noqa: PLC0415

  axes.set_xlabel(across)
  if across != "step":
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    return
  axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
  axes.xaxis.set_major_locator(
    ticker.MaxNLocator(6, integer=True, min_n_ticks=1)
  )
  axes.set_xlim(left=0)


def _root(axes: Any, steps: list[float]) -> None:
  from matplotlib import ticker  # noqa: PLC0415

  axes.set_xscale(
    "function",
    functions=(
      lambda x: np.sign(x) * np.sqrt(np.abs(x)),
      lambda x: np.sign(x) * np.square(x),
    ),
  )
  finite = [x for x in steps if math.isfinite(x)]
  low, high = min(finite, default=0.0), max(finite, default=1.0)
  wide = math.sqrt(max(high, 0.1))
  # Marks that are far enough from each other to be read, from the last one.
  shown: list[float] = []
  for mark in reversed(_ROOTS):
    near = shown and math.sqrt(shown[-1]) - math.sqrt(mark) < 0.09 * wide
    if mark <= 1.1 * high and not near:
      shown.append(mark)
  axes.xaxis.set_major_locator(ticker.FixedLocator(shown[::-1]))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
  axes.set_xlim(min(low, 0) - (0.08 * wide) ** 2, (1.13 * wide) ** 2)


def _inline(svg: str, name: str) -> str:
  """The element alone: no prologue, no names or sizes that could collide."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.S)
  svg = re.sub(r" ?font-family: [^;]*;", "", svg)
  svg = re.sub(r'<g id="[^"]*"', "<g", svg)
  box = re.search(r'viewBox="[^"]*"', svg)
  label = re.sub(r"[^\w ,.-]", "", name)
  head = f'<svg role="img" aria-label="{label}" {box[0] if box else ""}>'
  svg = re.sub(r"<svg[^>]*>", head, svg, count=1)
  for stand_in, colour in _COLOURS.items():
    svg = svg.replace(stand_in, colour)
  return svg.strip()
