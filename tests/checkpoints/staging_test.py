"""Checkpoints of a bucket that Orbax does not know."""

import pytest

from llm_jax import storage
from llm_jax.checkpoints import staging
from llm_jax.checkpoints.store import Checkpoints, Store
from tests import buckets
from tests.checkpoints import trees

FOLDER = f"{buckets.URL}/checkpoints"


@pytest.fixture(autouse=True)
def bucket():
  buckets.fill({})
  yield
  buckets.fill({})


def save(steps=(1, 2, 3)):
  made = Store(FOLDER, Checkpoints(keep=2, best=False))
  for step in steps:
    made.save(step, trees.state(step), {"batches": step})
  made.wait()
  return made


def restore():
  """Step of what is restored, and what was said."""
  said = []
  found = Store(FOLDER, warn=said.append).restore(trees.abstract(trees.state()))
  if found is None:
    return None, said
  step, state, position = found
  assert trees.bits(state) == trees.bits(trees.state(step))
  assert position == {"batches": step}
  return step, said


def test_saved_rotated_and_restored():
  made = save()
  assert made.steps() == [2, 3]
  assert restore() == (3, [])
  names = {k.split("/")[4] for k in buckets.content()}
  assert names == {"00000002", "00000003"}


def test_one_that_was_not_sent_to_its_end_is_passed_over():
  save()
  held = buckets.content()
  del held["/bucket/run/checkpoints/00000003/files.json"]
  buckets.fill(held)
  step, said = restore()
  assert step == 2 and "not written to its end" in said[0]


def test_any_object_that_has_changed_is_seen():
  save()
  held = buckets.content()
  its = [k for k in held if "/00000003/" in k]
  assert len(its) > 5
  for name in its:
    for data in (
      None,
      held[name][1:],
      bytes([held[name][0] ^ 1, *held[name][1:]]),
    ):
      changed = {k: v for k, v in held.items() if k != name}
      buckets.fill(changed if data is None else changed | {name: data})
      step, said = restore()
      assert step == 2, (name, said)


def moments():
  """Steps restored at each moment of saving a third checkpoint."""
  save((1, 2))
  with buckets.watched() as found:
    save((3,))
  out = []
  for held in found:
    buckets.fill(held)
    out.append(restore())
  return out


def test_at_every_moment_there_is_a_whole_one():
  found = moments()
  assert {step for step, _ in found} == {2, 3}
  steps = [step for step, _ in found]
  assert steps == sorted(steps)
  # Nothing that is listed is damaged: all that is passed over has no list.
  assert all("not written to its end" in x for _, said in found for x in said)


def test_a_list_before_its_files_would_be_seen(monkeypatch):
  def careless(self, made, folder):
    files = [p for p in made.rglob("*") if p.is_file()]
    files.sort(key=lambda p: p.name != "files.json")
    named = {p.relative_to(made).as_posix(): p for p in files}
    storage.send(named, folder)

  monkeypatch.setattr(staging.Stage, "send", careless)
  said = [x for _, said in moments() for x in said]
  assert any("is missing" in x for x in said)


def test_orbax_writes_here_and_to_gs(tmp_path):
  assert not staging.needed(tmp_path)
  assert staging.needed(storage.path(FOLDER))
