"""Data of buckets, as data of this machine."""

import pytest

from llm_jax import storage
from llm_jax.data import downloads, tables
from llm_jax.data.arrays import Arrays
from llm_jax.data.files import Files
from tests import buckets

TEXTS = {"a/2.txt": "two", "a/b/1.txt": "one", "a/3.txt": "three"}


@pytest.fixture(autouse=True)
def bucket(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  objects = {f"/bucket/{k}": v.encode() for k, v in TEXTS.items()}
  buckets.fill(objects | {"/bucket/a/notes.md": b"no data"})
  yield
  buckets.fill({})


def progress(items, total=None, label=""):
  assert total or label != "fetching files"
  return iter(items)


def local(folder):
  for name, text in TEXTS.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
  return folder


@pytest.mark.parametrize("given", ("a", "a/*.txt", "a/2.txt", "a/**"))
def test_as_if_they_were_here(tmp_path, given):
  here = Files(paths=(str(local(tmp_path) / given),))
  there = Files(paths=(f"memory://bucket/{given}",))
  assert there.identity(progress) == here.identity(progress)
  assert list(there.documents()) == list(here.documents())


def test_fetched_once_and_anew_when_changed(monkeypatch):
  from fsspec.implementations import memory

  fetched = []
  get = memory.MemoryFileSystem.get_file

  def counted(fs, name, *args, **kwargs):
    fetched.append(name)
    return get(fs, name, *args, **kwargs)

  monkeypatch.setattr(memory.MemoryFileSystem, "get_file", counted)
  source = Files(paths=("memory://bucket/a",))
  for _ in range(3):
    assert list(source.documents()) == ["two", "three", "one"]
  assert len(fetched) == 3
  storage.write(storage.path("memory://bucket/a/2.txt"), b"zwei")
  assert list(source.documents()) == ["zwei", "three", "one"]
  assert fetched[3:] == ["/bucket/a/2.txt"]


@pytest.mark.parametrize("given", ("none", "a/*.jsonl", "none/*"))
def test_nothing_there(given):
  with pytest.raises(ValueError, match=f"paths=memory://bucket/{given[:4]}"):
    tables.found([f"memory://bucket/{given}"], (".txt", ".jsonl"))


def test_what_cannot_be_read_is_told_with_its_flag(monkeypatch):
  def denied(*args):
    raise PermissionError("Forbidden")

  monkeypatch.setattr(downloads, "_meant", denied)
  with pytest.raises(ValueError) as found:
    tables.found(["memory://bucket/a"], (".txt",))
  assert str(found.value) == (
    "--data.sources.N.paths=memory://bucket/a: cannot be read (PermissionError:"
    " Forbidden)"
  )


def test_arrays_of_ids():
  ids = bytes(range(200))
  storage.write(storage.path("memory://bucket/ids.bin"), ids)
  loaded = Arrays(path="memory://bucket/ids.bin", length=4).load()
  assert loaded.identity.startswith("100 uint16")
  with pytest.raises(ValueError, match="--data.path=memory://bucket/no"):
    Arrays(path="memory://bucket/no.bin").load()
