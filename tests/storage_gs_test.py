"""gs:// as Orbax and gcsfs speak it, to an emulator of the service."""

import os
import socketserver

import pytest

# It asks the service over gRPC what kind of bucket it is; emulators have none.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
pytest.importorskip("gcsfs")
emulator = pytest.importorskip("gcp_storage_emulator.server")

from benchmarks import sameness
from llm_jax import storage
from llm_jax.checkpoints import reach
from llm_jax.checkpoints.store import Store
from llm_jax.reporting import files
from tests import command
from tests.storage_test import flags, SMALL

URL = "gs://a-bucket/runs/one"


_download = emulator.objects.download


def with_generation(request, response, store):
  """As the service, tells with an object which version of it this is.

  Without, nobody can write a new version of what they have read.
  """
  _download(request, response, store)
  names = request.params["bucket_name"], request.params["object_id"]
  if response.status < 300:
    about = store.get_file_obj(*names)
    response["X-Goog-Generation"] = about["generation"]


@pytest.fixture(scope="module", autouse=True)
def service():
  """An emulator, and everybody's way to it."""
  import fsspec

  with pytest.MonkeyPatch.context() as patch:
    # Clients that hang up early are not worth a traceback.
    patch.setattr(socketserver.BaseServer, "handle_error", lambda *_: None)
    patch.setattr(socketserver.TCPServer, "request_queue_size", 128)
    patch.setattr(emulator.objects, "download", with_generation)
    server = emulator.create_server("localhost", 0, in_memory=True)
    server.start()
    port = server._api._httpd.server_address[1]
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{port}")
    for scheme in ("gs", "gcs"):
      patch.setitem(fsspec.config.conf, scheme, {"token": "anon"})
    fsspec.filesystem("gs").mkdir("a-bucket")
    yield
    server.stop()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """A run on this machine, and what it left."""
  folder = tmp_path_factory.mktemp("here")
  command.call("train", *flags(folder, folder / "run"), experiment=SMALL)
  return folder, sameness.content(folder / "run")


@pytest.fixture(scope="module")
def run(here):
  """The same in a bucket, interrupted on the way."""
  append = files.Rows.append

  def interrupted(self, row):
    if row["step"] == 3:
      raise KeyboardInterrupt
    append(self, row)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(files.Rows, "append", interrupted)
    said = command.call("train", *flags(here[0], URL), experiment=SMALL)
    assert said.code == 130, said
  assert Store(f"{URL}/checkpoints").steps() == [2]
  said = command.call("train", *flags(here[0], URL), experiment=SMALL)
  assert said.code == 0, said.err
  assert "after step 2" in said.err
  return storage.path(URL)


def test_interrupted_and_resumed_it_is_the_run_on_this_machine(
  here, run, tmp_path
):
  storage.fetch(run, tmp_path)
  found = sameness.content(tmp_path)
  assert sameness.differences(here[1], found) == []
  assert "checkpoints" in {p.name for p in tmp_path.iterdir()}


def test_it_is_evaluated_and_a_copy_of_it_is_whole(here, run, tmp_path):
  given = flags(here[0], URL)
  said = command.call("evaluate", *given[:2], experiment=SMALL)
  assert said.code == 0, said.err
  assert (run / "evaluation.json").exists()
  storage.fetch(run, tmp_path)
  copied = f"--workdir={tmp_path}"
  again = command.call("evaluate", copied, given[1], experiment=SMALL)
  assert again.out == said.out


def test_what_has_changed_is_damaged(here, run):
  """As the bucket says, without reading it."""
  checkpoints = Store(f"{URL}/checkpoints")
  newest = run / "checkpoints/00000004"
  file = max(
    (p for p in newest.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  whole = file.read_bytes()
  assert checkpoints._newest()[0] == 4
  storage.write(file, bytes([whole[0] ^ 1]) + whole[1:])
  assert checkpoints._newest()[0] == 2
  storage.write(file, whole[1:])
  assert checkpoints._newest()[0] == 2
  file.unlink()
  assert checkpoints._newest()[0] == 2
  storage.write(file, whole)
  assert checkpoints._newest()[0] == 4


def test_no_such_bucket(here):
  said = command.call("train", *flags(here[0], "gs://none/a"), experiment=SMALL)
  assert said.code == 2
  assert "--workdir=gs://none/a: cannot be written (" in said.error


def test_who_saves_checkpoints_is_asked_too(here, monkeypatch):
  """It finds its own way to the service, and its own credentials."""
  reach.check(storage.path(URL), "workdir")
  monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://localhost:9")
  given = flags(here[0], "gs://a-bucket/other")
  said = command.call("train", *given, experiment=SMALL)
  assert said.code == 2
  assert "--workdir=gs://a-bucket/other: cannot be written by" in said.error
  assert not storage.path("gs://a-bucket/other").exists()
