"""What grows is sent when it should be, and only where there is a bucket."""

from unittest import mock

import pytest

from llm_jax import spool, storage
from tests import buckets


@pytest.fixture(autouse=True)
def bucket():
  buckets.fill({"/bucket/run/rows": b"1\n", "/bucket/run/other": b"2\n"})
  yield storage.path(buckets.URL)
  buckets.fill({})


def append(made, name, data):
  path = made.folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("ab") as f:
    f.write(data)


def test_on_this_machine_it_is_the_very_folder(tmp_path):
  made = spool.Spool(tmp_path, ("rows",))
  assert made.folder == tmp_path
  append(made, "rows", b"1\n")
  made.send()
  assert not made.is_due
  assert [p.name for p in tmp_path.iterdir()] == ["rows"]


def test_what_is_there_goes_on(bucket):
  made = spool.Spool(bucket, ("rows", "none"))
  assert [p.name for p in made.folder.iterdir()] == ["rows"]
  append(made, "rows", b"2\n")
  append(made, "board/events", b"x")
  assert buckets.content()["/bucket/run/rows"] == b"1\n"
  made.send()
  assert buckets.content() == {
    "/bucket/run/rows": b"1\n2\n",
    "/bucket/run/board/events": b"x",
    "/bucket/run/other": b"2\n",
  }


def test_only_what_is_new_is_sent(bucket, monkeypatch):
  made, sent = spool.Spool(bucket, ("rows",)), []
  monkeypatch.setattr(
    storage, "send", lambda files, folder: sent.append(sorted(files))
  )
  append(made, "a", b"1")
  append(made, "b", b"1")
  made.send()
  append(made, "b", b"2")
  made.send()
  made.send()
  assert sent == [["a", "b", "rows"], ["b"], []]


def test_what_could_not_be_sent_is_sent_the_next_time(bucket):
  made = spool.Spool(bucket)
  append(made, "a", b"1")
  with mock.patch.object(storage, "send", side_effect=OSError("503")):
    with pytest.raises(OSError, match="503"):
      made.send()
  made.send()
  assert buckets.content()["/bucket/run/a"] == b"1"


def test_sending_takes_a_fiftieth_of_the_time_at_most(bucket, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(spool.time, "monotonic", lambda: now[0])
  made = spool.Spool(bucket)

  def send(files, folder):
    now[0] += 2.0

  monkeypatch.setattr(storage, "send", send)
  spent = []
  while now[0] < 5000:
    if made.is_due:
      start = now[0]
      made.send()
      spent.append(now[0] - start)
    now[0] += 1.0
  assert 45 < len(spent) and sum(spent) <= now[0] / 50


def test_nothing_of_it_stays_on_this_machine(bucket):
  made = spool.Spool(bucket, ("rows",))
  folder = made.folder
  assert folder.exists()
  del made
  assert not folder.exists()
