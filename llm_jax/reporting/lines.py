"""Lines of curves, from the rows of a run."""

from typing import Any

from llm_jax.reporting import curves, results
from llm_jax.reporting.curves import Line

_SMOOTHED = 100  # curves of more rows are smoothed


def both(rows: results.Rows, name: str) -> list[Line]:
  """In training and in validation."""
  lines = noisy("train", *rows.curve("train", name))
  steps, values = rows.curve("validation", name)
  last = last_of(values, "{:.3f}")
  return [*lines, Line("validation", steps, values, "second", last)]


def noisy(
  name: str, steps: list[int], values: list[float], colour: str = "first"
) -> list[Line]:
  """A curve; a long one behind its own mean."""
  if len(values) <= _SMOOTHED:
    return [Line(name, steps, values, colour, last_of(values, "{:.3f}"))]
  mean = curves.smooth(values).tolist()
  return [
    Line(name, steps, values, colour, faint=True),
    Line(f"{name}, smoothed", steps, mean, colour, last_of(mean, "{:.3f}")),
  ]


def last_of(values: Any, form: str) -> str:
  """The last value as text; "" of none."""
  return form.format(values[-1]) if len(values) else ""
