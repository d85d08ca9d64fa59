"""Where templates are rendered: Jinja's sandbox, with limits.

Nothing outside can be reached or changed. What asks for a lot is refused: long
ranges, all of a rendering together, large factors and arguments, long output.
A template that runs on is stopped, where that is asked for.
"""

from collections.abc import Callable
import functools
import sys
import time
from typing import Any

MOST = 100_000  # numbers of all ranges of a rendering, and any argument
LONGEST = 10_000_000  # characters of a rendering
SECONDS = 5.0  # of a rendering that is watched


@functools.cache
def environment() -> Any:
  """Jinja's sandbox, with the tag `generation`; what is absent has no text."""
  from jinja2 import ext, nodes, sandbox, Undefined  # noqa: PLC0415  (slow)

  class Absent(Undefined):
    """May be asked for, but not written: else typing errors go unseen."""

    __slots__ = ()
    __str__ = Undefined._fail_with_undefined_error

  class Generation(ext.Extension):
    """Marks where the assistant speaks; no scope of its own."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
      line = next(parser.stream).lineno
      body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
      mark = lambda name: nodes.Output([nodes.Name(name, "load")], lineno=line)
      return [mark("_begin"), *body, mark("_close")]

  class Limited(sandbox.ImmutableSandboxedEnvironment):
    """Refuses what would take all memory in one step."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(
      self, context: Any, operator: str, left: Any, right: Any
    ) -> Any:
      numbers = [abs(x) for x in (left, right) if isinstance(x, int)]
      if max(numbers, default=0) > MOST:
        raise ValueError(f"{operator} with a number over {MOST:,}")
      return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *args: Any, **named: Any) -> Any:
      for x in (*args, *named.values()):
        if isinstance(x, int) and abs(x) > MOST:
          raise ValueError(f"a call with a number over {MOST:,}")
      return super().call(context, called, *args, **named)

  made = Limited(
    extensions=[Generation, ext.loopcontrols],
    undefined=Absent,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  del made.filters["center"]  # of any width
  return made


def render(template: Any, watched: bool, **names: Any) -> str:
  """A template's text.

  Args:
    template: of `environment`.
    watched: whether it is stopped after `SECONDS`; it is slower then.
    **names: what it may name.

  Raises:
    ValueError: it asks for too much, or takes too long.
    Exception: whatever the template raises.
  """
  left = MOST

  def limited(*args: int) -> range:
    nonlocal left
    found = range(*args)
    left -= len(found)
    if left < 0:
      raise ValueError(f"loops more than {MOST:,} times")
    return found

  def written() -> str:
    parts, size = [], 0
    for part in template.generate(range=limited, **names):
      parts.append(part)
      size += len(part)
      if size > LONGEST:
        raise ValueError(f"writes more than {LONGEST:,} characters")
    return "".join(parts)

  return _within(SECONDS, written) if watched else written()


def _within(seconds: float, act: Callable[[], str]) -> str:
  """What `act` returns; ValueError if Python runs on in it for too long."""
  end, before = time.monotonic() + seconds, sys.gettrace()

  def trace(*_: Any) -> Any:
    if time.monotonic() > end:
      raise ValueError(f"is not done after {seconds:g} seconds")
    return trace

  sys.settrace(trace)
  try:
    return act()
  finally:
    sys.settrace(before)
