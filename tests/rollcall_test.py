"""All processes meet, or all are told in one line why not."""

from concurrent import futures
import contextlib
import socket
import time

import pytest

from llm_jax import rollcall
from llm_jax.rollcall import attend, disagreement, Place
from tests.jobs import free_port

SAME = {"--seed": 0, "--mesh": [1, 2]}


def call(abouts, timeout=3.0, processes=None, port=None, say=lambda line: None):
  """What becomes of processes that say these: "" or the line of the error."""
  address = f"localhost:{port or free_port()}"
  count = processes or len(abouts)

  def one(index, about):
    try:
      attend(Place(address, count, index), about, timeout, say)
      return ""
    except ValueError as e:
      return str(e)

  with futures.ThreadPoolExecutor(len(abouts)) as threads:
    items = abouts.items() if isinstance(abouts, dict) else enumerate(abouts)
    return [f.result() for f in [threads.submit(one, *x) for x in items]]


def test_all_who_run_the_same_go_on():
  start = time.monotonic()
  assert call([SAME] * 5) == [""] * 5
  assert call([dict(SAME, a=(1, 2)), dict(SAME, a=[1, 2])]) == ["", ""]
  assert call([SAME]) == [""]  # one alone needs nobody
  assert time.monotonic() - start < 3


def test_the_port_is_free_afterwards():
  """JAX listens there next; two calls in a row would fail else."""
  port = free_port()
  for _ in range(3):
    assert call([SAME] * 3, port=port) == [""] * 3


def test_who_differs_is_named_to_all():
  said = call([SAME, SAME, dict(SAME, **{"--seed": 7, "b": 1})])
  assert len(set(said)) == 1
  assert said[0].startswith("not all processes run the same: process 2 (")
  assert said[0].endswith(
    "--seed: 7 there, 0 elsewhere; b: 1 there, None elsewhere"
  )


def them(*abouts):
  return [
    {"index": i, "host": f"h{i}", "about": about}
    for i, about in enumerate(abouts)
  ]


def test_what_most_run_is_right_and_the_first_where_none_are_most():
  a, b = {"x": 1}, {"x": 2}
  assert disagreement(them(a, a, a)) == ""
  said = "not all processes run the same: process {} (h{}) has x: {} there, {}"
  for abouts, wanted in (
    ((b, a, a), said.format(0, 0, 2, 1)),
    ((a, b, a), said.format(1, 1, 2, 1)),
    ((a, b), said.format(1, 1, 2, 1)),
  ):
    assert disagreement(them(*abouts)) == f"{wanted} elsewhere"
  many = disagreement(them(*[a] * 30, *[{"x": i} for i in range(9, 20)]))
  assert many.count("process") == 1 + 8 and many.endswith("and 3 more")
  wide = disagreement(them({}, dict.fromkeys(range(9), 1)))
  assert wide.endswith("and 4 more")


def test_who_is_missing_is_named():
  start = time.monotonic()
  lines = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rollcall, "_SAID", 0.2)
    said = call({0: SAME, 2: SAME}, 1.0, processes=4, say=lines.append)
  assert len(set(said)) == 1
  assert "--num_processes=4: 2 of 4 processes joined in 1 s" in said[0]
  assert "missing: 1, 3." in said[0]
  assert 1 <= time.monotonic() - start < 4
  assert any("waiting for processes 1, 3 (" in line for line in lines)


def test_nobody_at_the_address():
  port = free_port()
  (said,) = call({1: SAME}, 1.0, processes=2, port=port)
  assert said.startswith(f"--coordinator=localhost:{port}: process 1 on ")
  assert "in 1 s (Connection refused)" in said
  for address in ("localhost", "localhost:", "localhost:99999", ":80", "a:b"):
    with pytest.raises(ValueError, match="must be host:port"):
      attend(Place(address, 2, 1), SAME, 1.0)


@contextlib.contextmanager
def stranger(says):
  """Another program at a port, which says something to whoever comes."""
  with socket.create_server(("localhost", 0)) as server:
    with futures.ThreadPoolExecutor(1) as thread:

      def answer():
        with contextlib.suppress(OSError):
          while True:
            connection, _ = server.accept()
            with connection:
              connection.sendall(says)

      thread.submit(answer)
      yield server.getsockname()[1]
      server.shutdown(socket.SHUT_RDWR)


def test_another_program_at_the_address():
  with stranger(b"HTTP/1.1 400\r\n") as port:
    (said,) = call({1: SAME}, 1.0, processes=2, port=port)
  assert "(another program answers, maybe an earlier run)" in said


def test_a_port_that_is_taken(monkeypatch):
  monkeypatch.setattr(rollcall, "_PATIENCE", 0.5)
  with socket.create_server(("", 0)) as server:
    port = server.getsockname()[1]
    (said,) = call({0: SAME}, 2.0, processes=2, port=port)
  assert f"cannot listen at port {port} (Address already in use" in said


def test_one_number_for_two():
  said = call({0: SAME, 1: SAME}, 2.0, processes=3)
  assert "missing: 2" in said[0]
  port = free_port()
  with futures.ThreadPoolExecutor(3) as threads:
    found = [threads.submit(call, {i: SAME}, 2.0, 3, port) for i in (0, 1, 1)]
    said = [f.result()[0] for f in found]
  assert len(set(said)) == 1
  assert said[0].startswith("--process_id=1: given to two processes, on ")


def test_other_ideas_of_how_many():
  port = free_port()
  with futures.ThreadPoolExecutor(2) as threads:
    found = [
      threads.submit(call, {i: SAME}, 2.0, n, port) for i, n in ((0, 2), (1, 3))
    ]
    said = {f.result()[0] for f in found}
  (line,) = said
  assert "--num_processes=3: told process 1 (" in line
  assert line.endswith("process 0 has 2")


def test_one_who_went_away_is_waited_for_again():
  """And strangers who knock are nobody."""
  port = free_port()
  with futures.ThreadPoolExecutor(3) as threads:
    first = threads.submit(call, {0: SAME}, 5.0, 3, port)
    for says in (b"", b"GET / HTTP/1.1\r\n", b"[]\n"):
      time.sleep(0.2)
      with socket.create_connection(("localhost", port)) as connection:
        connection.sendall(says)
    with socket.create_connection(("localhost", port)) as connection:
      rollcall._line(connection, len(rollcall._GREETING))
      gone = {"index": 2, "count": 3, "host": "gone", "about": SAME}
      rollcall._send(connection, gone)
      time.sleep(0.3)
    others = [threads.submit(call, {i: SAME}, 5.0, 3, port) for i in (1, 2)]
    assert [f.result() for f in (first, *others)] == [[""]] * 3
