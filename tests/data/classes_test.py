"""Completions and texts with a class, as rows."""

import dataclasses

import numpy as np
import pytest

from llm_jax.data.conversation import Message
from llm_jax.data.preference import from_json, Preference
from llm_jax.data.preference_readers import PreferenceForm
from llm_jax.data.preference_sources import (
  gathered,
  PreferenceFiles,
  TFDSPreferences,
)
from llm_jax.data.preferences import Preferences
from llm_jax.data.stdlib_preferences import StdlibPreferences
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.data import chats, hosts

BYTES = ByteTokenizer()
NAMES = ("bad", "fair", "good")
ASKED = (Message("user", "Why?"),)
USER = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "so"}


def read(row, classes=NAMES, **settings):
  return PreferenceForm(classes=classes, **settings).read(row, "f:1")


@pytest.mark.parametrize(
  "row,prompt",
  [
    ({"prompt": "Why?", "completion": "so", "label": "good"}, ASKED),
    ({"messages": [USER, SAID], "label": "good"}, ASKED),
    ({"text": "so", "label": "good"}, ()),
    ({"text": "so", "label": 2}, ()),
    ({"text": "so", "label": 2.0}, ()),
  ],
)
def test_rows_in_every_form(row, prompt):
  want = Preference(prompt, ("so",), "class", ((2.0,),))
  assert read(row) == want and want.classes() == [2]
  assert want.pairs().pairs == [] and want.likes() == [None]
  assert from_json(want.to_json()) == want
  # And back, as a source reads it.
  (again,) = want.rows()
  assert read(again) == want


def test_names_that_are_numbers_are_names():
  """As stars from 1 to 5, whose numbers from 0 would be others."""
  stars = ("1", "2", "3")
  assert read({"text": "a", "label": 1}, stars).classes() == [0]
  assert read({"text": "a", "label": "3"}, stars).classes() == [2]
  with pytest.raises(ValueError) as e:
    read({"text": "a", "label": 0}, stars)
  assert str(e.value) == "f:1: field 'label' is 0, not one of 1, 2, 3"
  truth = ("true", "false")
  assert read({"text": "a", "label": False}, truth).classes() == [1]


@pytest.mark.parametrize(
  "row,want",
  [
    ({"text": "a", "label": "great"}, "'label' is 'great', not one of bad, f"),
    ({"text": "a", "label": 3}, "is 3, not .* their numbers from 0 to 2"),
    ({"text": "a", "label": -1}, "'label' is -1, not one of bad"),
    ({"text": "a", "label": 0.5}, "'label' is 0.5, not one of bad"),
    ({"text": "a", "label": True}, "'label' is True, not one of bad"),
    ({"text": "a", "label": None}, "'label' is None, not one of bad"),
    ({"text": "a"}, "of no known format .*; text, label; messages, label"),
    ({"text": " ", "label": 1}, "completion 0 is empty .*faulty=drop"),
    ({"text": 5, "label": 1}, "field 'text'"),
    ({"messages": [USER], "label": 1}, "'messages' does not end with the ass"),
    ({"messages": [], "label": 1}, "'messages' does not end with the assist"),
  ],
)
def test_bad_rows_say_where_and_what_is_allowed(row, want):
  with pytest.raises(ValueError, match=rf"^f:1: .*{want}"):
    read(row)


def test_without_names_a_label_says_liked_or_not():
  found = read({"text": "a", "label": True}, ())
  assert found.kind == "like" and found.classes() == [1]
  with pytest.raises(ValueError, match="is 'good', not true, false, 1 or 0"):
    read({"text": "a", "label": "good"}, ())
  pair = read({"prompt": "a", "chosen": "b", "rejected": "c"}, ())
  assert pair.classes() == [1, 0]


def test_labellers_decide_by_most():
  row = lambda label, who: read({"text": "a", "label": label, "labeller": who})
  said = (("bad", "x"), ("good", "y"), ("good", "z"))
  (found,) = gathered(("f:1", row(*s)) for s in said)
  assert found.classes() == [2] and len(found.values) == 3
  (tied,) = gathered(("f:1", row(*s)) for s in said[:2])
  assert tied.classes() == [None]


def test_names_are_two_or_more_and_change_what_a_source_is():
  for classes in (("a",), ("a", "a")):
    with pytest.raises(ValueError, match=r"classes=a(,a)?: expected two names"):
      PreferenceForm(classes=classes).about()
  abouts = [PreferenceForm(classes=c).about() for c in ((), NAMES, NAMES[:2])]
  assert len(set(abouts)) == 3 and "classes" not in abouts[0]
  sources = tuple(PreferenceFiles(classes=c) for c in (NAMES, NAMES[:2]))
  assert Preferences(sources=sources[:1]).classes == NAMES
  with pytest.raises(ValueError, match=r"classes \(bad,fair and bad,fair,good"):
    _ = Preferences(sources=sources).classes
  assert Preferences().classes == ("disliked", "liked")
  both = (StdlibPreferences(), PreferenceFiles())
  assert Preferences(sources=both).classes == ("disliked", "liked")


def test_labels_of_tfds_are_numbers(tmp_path):
  examples = [{"text": f"t{i}", "label": i % 3} for i in range(6)]
  features = lambda f: {"text": f.Text(), "label": f.ClassLabel(names=NAMES)}
  folder = chats.tfds_folder(tmp_path, examples, features, "classes")
  source = TFDSPreferences(name=folder, classes=NAMES)
  found = [from_json(line) for line in source.documents()]
  assert [p.classes() for p in found] == [[i % 3] for i in range(6)]
  assert [p.completions for p in found] == [(f"t{i}",) for i in range(6)]


ROWS = [
  *({"text": f"t{i}", "label": NAMES[i % 3]} for i in range(30)),
  *({"prompt": f"q{i}", "completion": "c", "label": i % 3} for i in range(9)),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("classes")


def made(home, rows, **changes):
  path = home / f"{len(rows)}.jsonl"
  chats.jsonl(path, rows)
  classes = () if "chosen" in rows[0] else NAMES
  settings = Preferences(
    sources=(PreferenceFiles(paths=(str(path),), classes=classes),),
    rows="classes",
    length=24,
    widths=1,
    validation=0.2,
    cache=str(home / "cache"),
  )
  settings = dataclasses.replace(settings, **changes)
  return settings.prepare(chats.plain).tokenise(BYTES, chats.plain)


def told(batch):
  """(prompt, completion, class) of the rows that have a completion."""
  text = lambda i, mask: BYTES.decode(batch["target_BT"][i][batch[mask][i]])
  return [
    (text(i, "prompt_BT"), text(i, "mask_BT"), int(batch["class_B"][i]))
    for i in np.flatnonzero(batch["mask_BT"].any(1))
  ]


WANT = sorted(
  (r.get("prompt", ""), r.get("completion", r.get("text")), i % 3)
  for i, r in [*enumerate(ROWS[:30]), *enumerate(ROWS[30:])]
)


def check(data):
  splits = [
    [x for b in data.held_out(s, 8) for x in told(b)]
    for s in ("train", "validation")
  ]
  assert sorted(sum(splits, [])) == WANT
  assert all(splits) and len(splits[0]) > len(splits[1])


def test_every_completion_is_a_row_with_its_class(home):
  data = made(home, ROWS)
  check(data)
  assert data.rows_together == 1 and data.notes == []
  batch = data.train(8, 0).next()
  assert batch["tokens_BT"].shape == batch["mask_BT"].shape == (8, 24)
  assert batch["class_B"].shape == batch["row_B"].shape == (8,)
  assert batch["class_B"].dtype == batch["row_B"].dtype == np.int32
  assert set(told(batch)) <= set(WANT)


def test_mutant_classes_of_other_rows_are_caught(home, monkeypatch):
  good = Preference.classes

  def turned(self):
    return [None if c is None else (c + 1) % 3 for c in good(self)]

  monkeypatch.setattr(Preference, "classes", turned)
  with pytest.raises(AssertionError):
    check(made(home, ROWS, cache=str(home / "other")))


def test_pairs_are_two_classes(home):
  rows = [
    {"prompt": f"q{i}", "chosen": f"y{i}", "rejected": f"n{i}"}
    for i in range(20)
  ]
  data = made(home, rows, validation=0.0)
  found = [x for b in data.held_out("train", 64) for x in told(b)]
  want = [(f"q{i}", f"{'ny'[c]}{i}", c) for i in range(20) for c in (0, 1)]
  assert sorted(found) == sorted(want)


def test_hosts_read_their_own_rows_and_a_position_is_one_number(home):
  hosts.batches(lambda: made(home, ROWS), "row_B", hosts=2)
