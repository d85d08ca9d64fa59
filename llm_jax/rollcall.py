"""All processes of a job meet before JAX starts, and say what they run.

JAX ends a process that waits too long for another by aborting it, and a job
whose processes run different programs hangs. So the first process listens at
the address where JAX will listen later, and waits for all others; each says
what it runs. Either all go on, or all stop with the same line.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import select
import socket
import time
from typing import Any, NamedTuple

_GREETING = b"llm_jax roll call\n"
_PATIENCE = 5.0  # seconds for a line from who has connected
_SAID = 10.0  # seconds between lines about who is missing

About = Mapping[str, Any]
"""What a process runs: name -> JSON value."""


class Place(NamedTuple):
  """A process's place among all."""

  address: str  # of the first: host:port
  processes: int
  process: int  # this one, from 0


def attend(
  place: Place,
  about: About,
  timeout: float,
  say: Callable[[str], None] = lambda line: None,
) -> None:
  """Returns once all processes are there and run the same.

  Args:
    place: of this process.
    about: what it runs.
    timeout: seconds to wait for the others.
    say: told, in a line, whom it waits for.

  Raises:
    ValueError: they are not there in time, or differ; the line names them.
  """
  host, _, port = place.address.rpartition(":")
  if not host or not port.isdigit() or int(port) > 65535:
    raise ValueError(f"--coordinator={place.address}: must be host:port")
  if place.processes == 1:
    return
  me = {
    "index": place.process,
    "count": place.processes,
    "host": f"{socket.gethostname()}, pid {os.getpid()}",
    "about": json.loads(json.dumps(about)),
  }
  if place.process == 0:
    verdict = _call(place, int(port), me, time.monotonic() + timeout, say)
  else:
    verdict = _answer(place, host.strip("[]"), int(port), me, timeout, say)
  if verdict:
    raise ValueError(verdict)


def _call(
  place: Place,
  port: int,
  me: dict[str, Any],
  until: float,
  say: Callable[[str], None],
) -> str:
  """The first process's part; what is wrong, "" if nothing is."""
  started = said = time.monotonic()
  here: dict[int, dict[str, Any]] = {0: me}
  waiting: dict[socket.socket, int] = {}
  verdict = ""
  with contextlib.ExitStack() as held:
    server = held.enter_context(_listen(place, port, until))
    while len(here) < place.processes and not verdict:
      now = time.monotonic()
      missing = sorted(set(range(place.processes)) - here.keys())
      if now > until:
        verdict = (
          f"--num_processes={place.processes}: {len(here)} of {place.processes}"
          f" processes joined in {now - started:.0f} s; missing:"
          f" {_few(missing)}. Start the same command on every host, each with"
          " its own --process_id"
        )
        break
      if now > said + _SAID:
        said = now
        say(f"waiting for processes {_few(missing)} ({now - started:.0f} s)")
      if not select.select([server], [], [], min(0.5, until - now))[0]:
        continue
      connection, _ = server.accept()
      held.enter_context(connection)
      found = _greeted(connection)
      if found is None:
        continue  # a stranger
      for gone in [c for c in waiting if not _is_open(c)]:
        here.pop(waiting.pop(gone))
      index, there = found["index"], here.get(found["index"])
      if found["count"] != place.processes:
        verdict = (
          f"--num_processes={found['count']}: told process {index}"
          f" ({found['host']}); process 0 has {place.processes}"
        )
      elif there is not None:
        verdict = (
          f"--process_id={index}: given to two processes, on"
          f" {there['host']} and on {found['host']}"
        )
      here[index], waiting[connection] = found, index
    verdict = verdict or disagreement([here[i] for i in sorted(here)])
    for connection in waiting:
      with contextlib.suppress(OSError):
        _send(connection, {"verdict": verdict})
    for connection in waiting:  # they hang up first, so the port is free then
      with contextlib.suppress(OSError):
        connection.settimeout(1)
        connection.recv(1)
  return verdict


def _answer(
  place: Place,
  host: str,
  port: int,
  me: dict[str, Any],
  timeout: float,
  say: Callable[[str], None],
) -> str:
  """Another process's part; what is wrong, "" if nothing is."""
  started = said = time.monotonic()
  failed = "nobody answers"
  while (now := time.monotonic()) < started + timeout:
    if now > said + _SAID:
      said = now
      say(f"waiting for process 0 at {place.address} ({now - started:.0f} s)")
    try:
      wait = min(_PATIENCE, started + timeout - now)
      with socket.create_connection((host, port), wait) as connection:
        if _line(connection, len(_GREETING)) != _GREETING:
          failed = "another program answers, maybe an earlier run"
        else:
          _send(connection, me)
          # From here on the first process decides, and counts from its start.
          connection.settimeout(timeout + 2 * _PATIENCE)
          return json.loads(_line(connection))["verdict"]
    except TimeoutError:
      failed = "no answer in time"
    except (OSError, ValueError, KeyError, TypeError) as e:
      failed = getattr(e, "strerror", None) or "it hung up"
    time.sleep(0.2)
  return (
    f"--coordinator={place.address}: process {place.process} on"
    f" {socket.gethostname()} found no first process there in {timeout:.0f} s"
    f" ({failed}); start --process_id=0 on that host, and let the port through"
  )


@contextlib.contextmanager
def _listen(place: Place, port: int, until: float) -> Iterator[socket.socket]:
  """A server at the port; waits a little for one who is just ending."""
  both = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if both else socket.AF_INET
  until = min(until, time.monotonic() + _PATIENCE)
  while True:
    try:
      server = socket.create_server(
        ("", port), family=family, dualstack_ipv6=both, backlog=place.processes
      )
      break
    except OSError as e:
      if time.monotonic() > until:
        raise ValueError(
          f"--coordinator={place.address}: {socket.gethostname()} cannot listen"
          f" at port {port} ({e.strerror}); an earlier run may still be there"
        ) from e
    time.sleep(0.2)
  with server:
    yield server


def _greeted(connection: socket.socket) -> dict[str, Any] | None:
  """What one says who has connected; None for a stranger."""
  try:
    connection.settimeout(_PATIENCE)
    connection.sendall(_GREETING)
    found = json.loads(_line(connection))
    return found if {"index", "count", "host", "about"} <= set(found) else None
  except (OSError, ValueError, TypeError):
    return None


def _is_open(connection: socket.socket) -> bool:
  """Whether the other side still waits; it has nothing to say."""
  if not select.select([connection], [], [], 0)[0]:
    return True
  with contextlib.suppress(OSError):
    return bool(connection.recv(1))
  return False


def _send(connection: socket.socket, value: Any) -> None:
  connection.sendall(json.dumps(value).encode() + b"\n")


def _line(connection: socket.socket, most: int = 2**24) -> bytes:
  """Bytes up to the end of a line, or of what there is."""
  found = b""
  while not found.endswith(b"\n") and len(found) < most:
    more = connection.recv(min(2**16, most - len(found)))
    if not more:
      break
    found += more
  return found


def disagreement(all_of_them: Sequence[Mapping[str, Any]]) -> str:
  """Who runs something else than most do, and what; "" if nobody does."""
  said = [json.dumps(its["about"], sort_keys=True) for its in all_of_them]
  if len(set(said)) == 1:
    return ""
  usual = all_of_them[said.index(Counter(said).most_common(1)[0][0])]["about"]
  lines = []
  for its in all_of_them:
    found = its["about"]
    keys = [k for k in {**usual, **found} if usual.get(k) != found.get(k)]
    if keys:
      listed = "; ".join(
        f"{k}: {found.get(k)!r} there, {usual.get(k)!r} elsewhere"
        for k in keys[:5]
      )
      more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
      lines.append(f"process {its['index']} ({its['host']}) has {listed}{more}")
  return f"not all processes run the same: {_few(lines, '. ')}"


def _few(items: Sequence[Any], between: str = ", ") -> str:
  """The first eight, and how many more."""
  more = f"{between}and {len(items) - 8} more" if len(items) > 8 else ""
  return between.join(map(str, items[:8])) + more
