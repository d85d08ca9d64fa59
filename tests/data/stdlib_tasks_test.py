"""Questions about the library are true, short, and kept apart by module."""

import ast
import inspect
import re
import shlex

import pytest

from llm_jax.data import splits, stdlib, stdlib_tasks
from llm_jax.data.conversation import from_json
from llm_jax.data.instructions import Instructions
from llm_jax.data.stdlib import Stdlib
from llm_jax.data.stdlib_tasks import StdlibTasks, TASKS
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.data.chats import plain

MODULES = (
  *("shlex", "textwrap", "sched", "heapq", "tarfile", "zipfile", "mailbox"),
  *("ipaddress", "plistlib", "gettext", "pprint", "cmd", "asyncio", "numbers"),
)
SHARES = {"validation": 0.25, "test": 0.25}


@pytest.fixture(scope="module")
def few():
  """{name: source} of some modules, for time; all that the sources see."""
  found = dict(m for m in stdlib.modules() if m[0].startswith(MODULES))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(stdlib, "modules", lambda: iter(found.items()))
    patch.setattr(stdlib_tasks, "_GROUPS", 4)  # a split is one of them
    patch.setattr(StdlibTasks, "identity", lambda *_: "few modules")
    yield found


@pytest.fixture(scope="module")
def conversations(few):
  return list(StdlibTasks().conversations())


def of(conversations, task):
  return [c for c in conversations if c.task == task]


def test_every_kind_is_asked(conversations):
  for task in TASKS:
    assert len(of(conversations, task)) > 300, task
  lines = StdlibTasks(("name",)).documents()
  only = [from_json(line) for line in lines]
  assert only == of(conversations, "name")


def test_answers_are_true(conversations, few):
  wanted = "Split the string *s* using shell-like syntax."
  said = {}
  for c in conversations:
    if wanted in c.messages[0].content + c.answer:
      said[c.task] = c
  assert said["name"].answer == "split"
  assert said["module"].answer == "shlex"
  assert said["docstring"].answer == wanted
  assert "def split(s, comments=False, posix=True):" in (
    said["docstring"].messages[0].content
  )
  assert wanted not in said["docstring"].messages[0].content
  arguments = str(inspect.signature(shlex.split))
  assert said["signature"].answer == arguments
  for c in of(conversations, "signature"):
    ast.parse(f"def f{c.answer}: pass")


def test_a_module_is_among_its_choices(conversations, few):
  for c in of(conversations, "module"):
    asked = c.messages[0].content
    found = re.findall(r"[\w.]+(?: or [\w.]+)+", asked)
    choices = [set(x.split(" or ")) for x in found]
    assert any({c.answer} < x <= set(few) for x in choices), c
  first = sum(
    re.search(rf"(?<! or ){re.escape(c.answer)} or ", c.messages[0].content)
    is not None
    for c in of(conversations, "module")
  )
  assert 0.1 < first / len(of(conversations, "module")) < 0.6  # not always


def test_short_and_asked_once(conversations):
  assert max(len(m.content) for c in conversations for m in c.messages) < 420
  asked = [c.messages[0].content for c in conversations]
  assert len(set(asked)) == len(asked)
  for c in conversations:
    assert c.answer.strip() == c.answer != ""
    assert "\n" not in c.answer


def test_the_same_each_time(conversations):
  assert list(StdlibTasks().conversations()) == conversations


def by_split(few, tmp_path):
  settings = Instructions(length=1024, cache=str(tmp_path), **SHARES)
  data = settings.prepare(plain).tokenise(ByteTokenizer(), plain)
  return {s: [e.conversation for e in data.examples(s)] for s in splits.SPLITS}


def modules_of(conversations):
  return {c.answer for c in of(conversations, "module")}


def words(conversations):
  """Dotted names beside an "or", which are the choices."""
  text = " ".join(c.messages[0].content for c in of(conversations, "module"))
  return set(re.findall(r"([\w.]+) or ", text))


def test_no_module_is_in_two_splits_not_even_as_a_wrong_choice(few, tmp_path):
  found = by_split(few, tmp_path)
  assert sum(map(len, found.values())) > 1000
  assert all(found.values())
  names = {s: modules_of(cs) for s, cs in found.items()}
  apart = set(few) - {"cmd", "numbers"}  # also words of English
  for a in splits.SPLITS:
    for b in set(splits.SPLITS) - {a}:
      assert not names[a] & names[b]
      assert not names[a] & words(found[b]) & apart
  # The mutant: parted by conversation, every larger module is in each.
  everything = sum(found.values(), [])
  shares = splits.Shares("hash", **SHARES)
  leaked = {
    s: modules_of(c for c in everything if shares.of(c.to_json()) == s)
    for s in splits.SPLITS
  }
  assert len(leaked["train"] & leaked["test"]) > 5


def test_what_the_base_saw_trains_and_what_it_did_not_is_held_out(
  few, tmp_path
):
  """Text of the same shares holds out the same modules."""
  shares = splits.Shares("hash", **SHARES)
  split_of = {}
  for document in Stdlib("docs").documents():
    for name in re.findall(r"^def (\w+)\(", document, re.M):
      split_of.setdefault(name, set()).add(shares.of(document))
  for split, found in by_split(few, tmp_path).items():
    for c in of(found, "name"):
      assert split in split_of[c.answer], c


def test_unknown_tasks():
  for wrong in (("names",), ()):
    with pytest.raises(
      ValueError, match="some of docstring, name, module, sig"
    ):
      next(StdlibTasks(wrong).documents())
