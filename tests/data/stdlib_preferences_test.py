"""Preferences about the library: the right line is chosen, in its split."""

import pytest

from llm_jax.data import splits, stdlib, stdlib_tasks
from llm_jax.data.preference import from_json
from llm_jax.data.stdlib_preferences import KINDS, StdlibPreferences
from llm_jax.data.stdlib_tasks import StdlibTasks
from tests.data.chats import plain

MODULES = ("shlex", "textwrap", "heapq", "tarfile", "zipfile", "mailbox")
MODULES += ("ipaddress", "plistlib", "gettext", "pprint", "cmd", "asyncio")


@pytest.fixture(scope="module")
def few():
  found = dict(m for m in stdlib.modules() if m[0].startswith(MODULES))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stdlib, "modules", lambda: iter(found.items()))
    patch.setattr(stdlib_tasks, "_GROUPS", 4)
    yield


@pytest.fixture(scope="module")
def found(few):
  return [from_json(line) for line in StdlibPreferences().documents()]


@pytest.fixture(scope="module")
def answers(few):
  return {
    c.question.messages: c for c in StdlibTasks(("docstring",)).conversations()
  }


def test_the_right_line_is_chosen(found, answers):
  assert len(found) > 300
  for p in found:
    right = answers[p.prompt]
    ((w, l),), _, _ = p.pairs()
    assert p.completions[w] == right.answer != p.completions[l]
    assert p.place == right.place
    wrong = p.completions[l]
    if p.task == "truncated":
      assert right.answer.startswith(wrong) and wrong.strip()
    else:
      assert not right.answer.startswith(wrong) or len(wrong.split()) > 1
  # Mutant: labels swapped.
  assert found[0].completions[1] != answers[found[0].prompt].answer


def test_both_kinds_in_like_numbers(found):
  kinds = [p.task for p in found]
  assert abs(kinds.count("other") / len(kinds) - 0.5) < 0.05
  only = [from_json(x) for x in StdlibPreferences(("other",)).documents()]
  assert only == [p for p in found if p.task == "other"]


def test_rejected_lines_are_of_another_module_and_the_same_split(
  found, answers
):
  shares = splits.Shares("hash", 0.25, 0.25)
  seen = {s: set() for s in splits.SPLITS}
  where = {}  # line -> places of modules that have it
  for c in answers.values():
    where.setdefault(c.answer, set()).add(c.place)
    seen[shares.at(c.place)].add(c.answer)
  for p in found:
    if p.task == "other":
      line = p.completions[1]
      assert line in seen[shares.at(p.placed)]
      assert where[line] - {p.place}
  assert all(seen.values())
  # Mutant: any function's line would cross the splits.
  everything = set.union(*seen.values())
  assert not everything <= seen[shares.at(found[0].placed)]


def test_the_same_every_time(found):
  again = [from_json(line) for line in StdlibPreferences().documents()]
  assert again == found
  names = {StdlibPreferences((k,)).identity(plain) for k in KINDS}
  assert len(names | {StdlibPreferences().identity(plain)}) == 3


@pytest.mark.parametrize("wrong", [("longer",), ()])
def test_unknown_kinds_are_refused(wrong):
  with pytest.raises(ValueError, match=r"N.rejected=.*: some of other, trunc"):
    StdlibPreferences(wrong).identity(plain)
