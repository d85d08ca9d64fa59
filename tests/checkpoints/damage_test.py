"""A damaged or half-written checkpoint is passed over, by name, not used."""

import errno
import json
import os
import pathlib
import shutil

import pytest

from llm_jax.checkpoints import listing
from llm_jax.checkpoints.store import Checkpoints, Store
from tests.checkpoints import trees


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A folder with checkpoints of steps 1 and 2, to be copied."""
  folder = tmp_path_factory.mktemp("whole") / "checkpoints"
  made = Store(folder, Checkpoints(keep=2))
  for step in (1, 2):
    made.save(step, trees.state(step), {"batches": step}, float(step))
  made.wait()
  return folder


@pytest.fixture
def folder(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / "checkpoints")


def restore(folder):
  """(step, bits, position) and the warnings."""
  warnings = []
  made = Store(folder, warn=warnings.append)
  found = made.restore(trees.abstract(trees.state()))
  if found is None:
    return None, warnings
  step, state, position = found
  assert trees.bits(state) == trees.bits(trees.state(step))
  assert position == {"batches": step}
  return step, warnings


def largest(folder):
  """The file of a checkpoint that holds most of its numbers."""
  files = [p for p in (folder / "arrays").rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def every(folder, suffix=""):
  return [p for p in folder.rglob(f"*{suffix}") if p.is_file()]


def missing(path):
  path.unlink()


def truncated(path):
  os.truncate(path, path.stat().st_size // 2)


def emptied(path):
  os.truncate(path, 0)


def zeroed(path):
  path.write_bytes(bytes(path.stat().st_size))


def grown(path):
  path.write_bytes(path.read_bytes() + b"\0")


def one_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


DAMAGES = (missing, truncated, emptied, zeroed, grown, one_bit)


def test_undamaged_the_newest_is_used(folder):
  assert restore(folder) == (2, [])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["arrays", "position.json", "files.json"])
def test_the_one_before_is_used(folder, name, damage):
  newest = folder / "00000002"
  hit = largest(newest) if name == "arrays" else newest / name
  damage(hit)
  step, warnings = restore(folder)
  assert step == 1
  (warning,) = warnings  # one line, which names it
  assert str(newest) in warning and "\n" not in warning
  if name != "files.json":
    assert hit.name in warning


def test_every_file_matters(folder):
  """Orbax writes a dozen files; none of them may be wrong unseen."""
  newest = folder / "00000002"
  for path in every(newest):
    before = path.read_bytes()
    one_bit(path)
    assert listing.damage(newest), path
    path.write_bytes(before)
    assert listing.damage(newest) is None


def test_every_bit_of_the_list_matters(folder, monkeypatch):
  newest = folder / "00000002"
  path = newest / "files.json"
  found = json.loads(path.read_text())["files"]
  monkeypatch.setattr(listing, "_checksums", lambda folder: found)
  assert listing.damage(newest) is None
  before = path.read_bytes()
  for i in range(len(before)):
    data = bytearray(before)
    data[i] ^= 1 << (i % 8)
    path.write_bytes(data)
    assert listing.damage(newest), bytes(data[max(0, i - 20) : i + 20])


def test_orbax_alone_would_have_missed_some_damage(folder, monkeypatch):
  """The mutant: without our list, wrong numbers come back as if right."""
  monkeypatch.setattr(listing, "damage", lambda folder: None)
  newest = folder / "00000002"
  position = newest / "position.json"
  position.write_text(position.read_text().replace("2", "3", 1))
  with pytest.raises(AssertionError):
    restore(folder)


def test_a_file_that_cannot_be_read_is_damage(folder, monkeypatch):
  newest = folder / "00000002"
  read = listing._checksum

  def broken(path):
    if newest in path.parents:
      raise OSError(errno.EIO, "Input/output error")
    return read(path)

  monkeypatch.setattr(listing, "_checksum", broken)
  step, (warning,) = restore(folder)
  assert step == 1 and "Input/output error" in warning


def test_a_file_in_the_place_of_a_checkpoint_is_passed_over(folder):
  (folder / "00000003").write_text("")
  step, (warning,) = restore(folder)
  assert step == 2 and "00000003" in warning


def test_all_damaged_is_an_error_not_a_new_start(folder):
  for path in every(folder, "position.json"):
    one_bit(path)
  warnings = []
  made = Store(folder, warn=warnings.append)
  with pytest.raises(ValueError, match="every checkpoint is damaged") as e:
    made.restore(trees.abstract(trees.state()))
  assert str(folder) in str(e.value) and "--init_from" in str(e.value)
  assert len(warnings) == 2
  with pytest.raises(ValueError, match="every checkpoint is damaged"):
    made.restore_part({})


def test_only_a_first_save_cut_short_is_a_new_start(folder):
  shutil.rmtree(folder / "00000002")
  (folder / "00000001" / "files.json").unlink()
  found, (warning,) = restore(folder)
  assert found is None and "not written to its end" in warning


def test_a_damaged_one_does_not_push_out_the_good(folder):
  """After passing over step 9, saves of 3 and 4 must be what is kept."""
  shutil.copytree(folder / "00000002", folder / "00000009")
  one_bit(largest(folder / "00000009"))
  made = Store(folder, Checkpoints(keep=1, best=False))
  step, _, _ = made.restore(trees.abstract(trees.state()))
  assert step == 2
  made.save(3, trees.state(3), {"batches": 3})
  made.wait()
  assert made.steps() == [3]
  assert restore(folder) == (3, [])


def test_what_kills_left_is_swept_away(folder):
  for name in ("00000003", "00000007"):
    (folder / name / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    (folder / name / "position.json.partial").write_text("{")
  made = Store(folder, Checkpoints(keep=2))
  assert made.steps() == [1, 2]
  made.save(3, trees.state(3), {"batches": 3}, 3.0)
  made.wait()
  assert sorted(p.name for p in folder.iterdir()) == [
    "00000001",  # the best
    "00000002",
    "00000003",
  ]
  assert restore(folder) == (3, [])


class KilledError(BaseException):
  """Ends a call where a SIGKILL would have."""


def kill_at(patch, number):
  """Nothing happens from the number-th file operation on; returns a log."""
  calls = []

  def counted(original):
    def call(*args, **kwargs):
      calls.append(original.__name__)
      if 0 < number <= len(calls):
        raise KilledError
      return original(*args, **kwargs)

    return call

  patch.setattr(os, "replace", counted(os.replace))
  patch.setattr(os, "fsync", counted(os.fsync))
  patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
  patch.setattr(pathlib.Path, "unlink", counted(pathlib.Path.unlink))
  return calls


def save_third(folder):
  made = Store(folder, Checkpoints(keep=1, best=False))
  made.save(3, trees.state(3), {"batches": 3})
  made.wait()


def after_kills(folder, tmp_path, monkeypatch):
  """What a save killed at each of its operations leaves to restore."""
  with monkeypatch.context() as patch:
    calls = kill_at(patch, 0)
    save_third(shutil.copytree(folder, tmp_path / "unharmed"))
  assert len(calls) >= 8  # two files written, two checkpoints removed
  found = []
  for number in range(1, len(calls) + 1):
    copy = shutil.copytree(folder, tmp_path / str(number))
    with monkeypatch.context() as patch, pytest.raises(KilledError):
      kill_at(patch, number)
      save_third(copy)
    found.append(restore(copy)[0])
    save_third(copy)  # the next start can save
    assert restore(copy) == (3, [])
  return found


def test_killed_at_any_operation_of_ours_something_whole_remains(
  folder, tmp_path, monkeypatch
):
  found = after_kills(folder, tmp_path, monkeypatch)
  assert set(found) == {2, 3} and found == sorted(found)


def test_making_room_first_would_be_seen(folder, tmp_path, monkeypatch):
  write = listing.write

  def careless(new):
    for old in new.parent.iterdir():
      if old != new:
        shutil.rmtree(old)
    write(new)

  monkeypatch.setattr(listing, "write", careless)
  assert None in after_kills(folder, tmp_path, monkeypatch)
