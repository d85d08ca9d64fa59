"""What Orbax says of a failed save, on many pages, is said by us in a line."""

import functools
import logging
import sys
from typing import Any


@functools.cache
def quiet() -> None:
  """Drops Orbax's own report of errors that it also raises."""
  logging.getLogger("absl").addFilter(lambda r: "orbax" not in r.pathname)
  logging.getLogger("asyncio").addFilter(
    lambda r: "exception was never retrieved" not in r.getMessage()
  )
  before = sys.unraisablehook

  def hook(about: Any) -> None:
    # Writes that end after the first failed one find nobody waiting.
    if str(about.exc_value) != "Event loop is closed":
      before(about)

  sys.unraisablehook = hook
