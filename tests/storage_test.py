"""A run in a bucket is the run on this machine, whenever it is killed."""

import dataclasses
import json
import math

import pytest

from benchmarks import sameness
from llm_jax import saving, storage
from llm_jax.checkpoints import store
from llm_jax.checkpoints.store import Store
from llm_jax.experiment import Validation
from llm_jax.reporting import files, hooks
from tests import buckets, command
from tests.buckets import URL

SMALL = dataclasses.replace(
  command.EXPERIMENT,
  steps=4,
  validation=Validation(every=2, batches=1),
  checkpoints=store.Checkpoints(every=2, keep=2),
)


@pytest.fixture
def bucket():
  """An empty one, in this process's memory."""
  buckets.fill({})
  yield
  buckets.fill({})


def flags(folder, workdir=URL):
  path = folder / "text.txt"
  if not path.exists():
    command.text_file(folder)
  return [
    f"--workdir={workdir}",
    f"--data.cache={folder / 'cache'}",
    f"--data.sources.0.paths={path}",
  ]


def call(*args):
  said = command.call(*args, experiment=SMALL)
  assert said.code == 0, said.err
  return said


def brought(folder):
  """The bucket's run as a folder of this machine."""
  storage.fetch(storage.path(URL), folder)
  return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """A run on this machine, and what it left."""
  folder = tmp_path_factory.mktemp("here")
  call("train", *flags(folder, folder / "run"))
  return folder, sameness.content(folder / "run")


@pytest.fixture(scope="module")
def moments(here):
  """What a bucket held after each change, while a run was trained in it."""
  buckets.fill({})
  with buckets.watched() as found:
    call("train", *flags(here[0]))
  buckets.fill({})
  return found


def lost(held):
  """What is wrong with a bucket as a killed run has left it."""
  buckets.fill(held)
  run = storage.path(URL)
  checkpoints = Store(run / "checkpoints")
  problems = []
  for step in checkpoints.steps():
    _, damage = checkpoints._fetched(checkpoints._at(step))
    if damage:
      problems.append(f"{step}: {damage}")
    rows = run / "metrics.jsonl"
    lines = rows.read_text().splitlines() if rows.exists() else []
    there = {r["step"] for r in map(json.loads, lines) if r["split"] == "train"}
    if not set(range(1, step + 1)) <= there:
      problems.append(f"{step}: rows of {sorted(there)} only")
  return problems


def test_a_run_in_a_bucket_is_the_run_on_this_machine(here, moments, tmp_path):
  buckets.fill(moments[-1])
  found = sameness.content(brought(tmp_path / "run"))
  assert sameness.differences(here[1], found) == []
  assert (tmp_path / "run/report.html").exists()
  # Nothing else: no probe, no part of a file, no emptied checkpoint.
  names = {k.removeprefix("/bucket/run/").split("/")[0] for k in moments[-1]}
  whole = {p.name for p in (here[0] / "run").iterdir()}
  assert names == whole


def test_killed_at_any_moment_what_is_listed_is_whole(moments):
  assert len(moments) > 30
  assert [p for held in moments for p in lost(held)] == []


@pytest.mark.parametrize("step", (2, 4))
def test_killed_and_resumed_it_ends_as_if_never_killed(
  here, moments, step, tmp_path
):
  """Killed before the checkpoint of a step was sent to its end."""
  name = f"/bucket/run/checkpoints/{step:08d}/files.json"
  first = next(i for i, held in enumerate(moments) if name in held)
  buckets.fill(moments[first - 1])
  said = call("train", *flags(here[0])).err
  assert ("after step 2" in said) == (step == 4)
  found = sameness.content(brought(tmp_path / "run"))
  assert sameness.differences(here[1], found) == []


def train_watched(here):
  buckets.fill({})
  with buckets.watched() as found:
    call("train", *flags(here[0]))
  return [p for held in found for p in lost(held)]


def test_rows_sent_after_the_checkpoint_would_be_seen(here, monkeypatch):
  act = saving.Save.act

  def late(self, step, state):
    send, self._metrics.send = self._metrics.send, lambda: None
    act(self, step, state)
    self._metrics.send = send

  monkeypatch.setattr(saving.Save, "act", late)
  assert any("rows of" in p for p in train_watched(here))


def test_it_is_evaluated_and_asked_there(here, moments, tmp_path):
  buckets.fill(moments[-1])
  given = [flags(here[0])[0], flags(here[0])[1]]
  call("evaluate", *given)
  asked = ["--prompt=line 1", "--samples.max_new_tokens=4"]
  there = call("generate", given[0], *asked).out
  assert there == call("generate", f"--workdir={here[0] / 'run'}", *asked).out
  found = brought(tmp_path / "run")
  call("evaluate", f"--workdir={here[0] / 'run'}", given[1])
  results = lambda f: json.loads((f / "evaluation.json").read_text())["results"]
  assert results(found) == results(here[0] / "run")
  assert math.isfinite(results(found)["model"]["loss"])
  assert "evaluation" in (found / "report.html").read_text()


def test_it_is_a_base(here, moments, tmp_path):
  buckets.fill(moments[-1])
  first = [*flags(here[0], tmp_path / "run"), "--steps=1"]
  call("train", *first, f"--init_from={URL}")
  second = [*flags(here[0], tmp_path / "other"), "--steps=1"]
  call("train", *second, f"--init_from={here[0] / 'run'}")
  contents = [sameness.content(tmp_path / n) for n in ("run", "other")]
  assert sameness.differences(*contents) == []


def test_what_cannot_be_written_is_told_before_anything_is_made(
  here, bucket, monkeypatch
):
  from fsspec.implementations import memory

  def denied(*args, **kwargs):
    raise PermissionError("Forbidden: no storage.objects.create")

  monkeypatch.setattr(memory.MemoryFileSystem, "pipe_file", denied)
  monkeypatch.setattr(memory.MemoryFileSystem, "_open", denied)
  said = command.call("train", *flags(here[0]), experiment=SMALL)
  assert said.code == 2
  assert said.error == (
    f"error: --workdir={URL}: cannot be written (PermissionError: Forbidden:"
    " no storage.objects.create)"
  )


@pytest.mark.parametrize(
  "given, wanted",
  (
    ("ftp://host/run", "neither a path of this machine nor gs://"),
    ("s4://bucket/run", "neither a path of this machine nor gs://"),
  ),
)
def test_other_addresses_are_refused(here, given, wanted):
  said = command.call("train", *flags(here[0], given), experiment=SMALL)
  assert said.code == 2 and wanted in said.error


def test_a_library_that_is_missing_is_named(here, monkeypatch):
  monkeypatch.setitem(storage._LIBRARIES, "s3", ("no_such", "llm_jax[s3]"))
  given = flags(here[0], "s3://bucket/run")
  assert command.call("train", *given, experiment=SMALL).error == (
    "error: --workdir=s3://bucket/run: no_such is not installed; pip install"
    " 'llm_jax[s3]'"
  )


def test_what_grows_beside_others_must_be_here(here, moments):
  buckets.fill(moments[-1])
  given = [flags(here[0])[0], f"--into={URL}.jsonl"]
  said = command.call("label", *given, experiment=SMALL)
  assert said.code == 2
  assert f"--into={URL}.jsonl: must be on this machine" in said.error


def test_a_bucket_that_fails_now_and_then_stops_no_step(
  here, bucket, monkeypatch
):
  send = hooks.Spool.send
  failed = []

  def flaky(self):
    if not failed:
      failed.append(True)
      raise OSError("503, try again")
    send(self)

  monkeypatch.setattr(hooks.Spool, "send", flaky)
  monkeypatch.setattr(hooks.Spool, "is_due", property(lambda self: True))
  said = call("train", *flags(here[0]))
  assert "metrics not sent yet: 503, try again" in said.err
  assert failed


def test_what_a_library_raises_is_told_with_the_path(bucket, monkeypatch):
  """Those who write beside training, as heartbeats, expect no other error."""
  from fsspec.implementations import memory

  def failed(*args, **kwargs):
    raise RuntimeError("token has expired")

  path = storage.path(URL) / "a.json"
  with pytest.raises(FileNotFoundError):
    storage.read(path)
  for name in ("pipe_file", "find", "put", "cat_file", "_open"):
    monkeypatch.setattr(memory.MemoryFileSystem, name, failed)
  said = "token has expired"
  for act in (
    lambda: storage.write(path, b"1"),
    lambda: storage.read(path),
    lambda: storage.listed(path.parent),
    lambda: storage.send({"b": path}, path.parent),
    lambda: files.write_json(path, 1),
    lambda: files.read_json(path),
  ):
    with pytest.raises(OSError, match=f"{URL}.*{said}"):
      act()
