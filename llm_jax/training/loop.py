"""The loop. There is one."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from llm_jax.contracts import Hook, Metrics, Source


def train(
  state: Any,
  step: Callable[[Any, Any], tuple[Any, Metrics]],
  source: Source,
  hooks: Iterable[Hook],
  until: int,
  stop: Callable[[int], bool] = lambda done: False,
  beat: Callable[[int, str], None] = lambda step, doing: None,
) -> Any:
  """Steps until `until` are done, `stop(steps done)` says so, or data ends.

  A source ends by raising StopIteration; the state then tells how far it came.
  Of any other failure of it the hooks are told, to rescue the state.

  The numbers of step i are read after step i + 1 is dispatched, so that the
  device never waits for the host; but before any hook acts on the state of
  step i, so that nothing is done with a state whose numbers are unknown.

  `beat` is told whatever begins: "stop", "batch", "step", "numbers", or the
  name of a hook that acts.
  """
  hooks, unread = list(hooks), None
  waits = any(hook.waits for hook in hooks)
  done = int(state.step)

  def read() -> None:
    nonlocal unread
    if unread is not None:
      (at, metrics), unread = unread, None
      beat(at, "numbers")
      numbers = {k: m.compute() for k, m in jax.device_get(metrics).items()}
      for hook in hooks:
        hook.read(at, numbers)

  def stops() -> bool:
    beat(done + 1, "stop")
    return stop(done)

  while done < until and not stops():
    if waits:
      read()
    beat(done + 1, "batch")
    try:
      batch = source.next(state)
    except StopIteration:
      break
    except Exception as error:
      read()
      for hook in hooks:
        hook.rescue(done, state, error)
      raise
    beat(done + 1, "step")
    state, metrics = step(state, batch)
    done += 1
    read()
    unread = (done, metrics)
    due = [hook for hook in hooks if hook.due(done)]
    if due:
      read()
    for hook in due:
      beat(done, type(hook).__name__)
      hook.act(done, state)
  read()
  return state
