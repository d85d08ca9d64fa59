"""Preferences in the forms that people have: read as what they mean."""

import dataclasses

import numpy as np
import pytest

from llm_jax.data import preference_readers
from llm_jax.data.conversation import Message
from llm_jax.data.preference import from_json, Preference
from llm_jax.data.preference_readers import PreferenceForm
from llm_jax.data.preference_sources import (
  gathered,
  PreferenceFiles,
  TFDSPreferences,
)
from tests.data import chats

ASKED = (Message("user", "Why?"),)
COMPLETIONS = ("because", "no reason", "ask me later")
USER = {"role": "user", "content": "Why?"}


def said(content):
  return {"role": "assistant", "content": content}


def read(row, **settings):
  return PreferenceForm(**settings).read(row, "f:1")


PAIR = Preference(ASKED, COMPLETIONS[:2], "order", ((1, 0),))
PAIRS = [
  {"prompt": "Why?", "chosen": "because", "rejected": "no reason"},
  {"prompt": [USER], "chosen": "because", "rejected": "no reason"},
  {
    "prompt": [USER],
    "chosen": [said("because")],
    "rejected": [said("no reason")],
  },
  {"chosen": [USER, said("because")], "rejected": [USER, said("no reason")]},
  {
    "prompt": "Why?",
    "chosen": [USER, said("because")],
    "rejected": [USER, said("no reason")],
  },
  {
    "chosen": "\n\nHuman: Why?\n\nAssistant: because",
    "rejected": "\n\nHuman: Why?\n\nAssistant: no reason",
  },
]


@pytest.mark.parametrize("row", PAIRS)
def test_pairs_in_every_form_are_one(row):
  assert read(row) == PAIR


def test_transcripts_may_come_after_a_prompt():
  row = {
    "prompt": "\n\nHuman: Why?\n\nAssistant:",
    "chosen": " because",
    "rejected": " no reason",
  }
  assert read(row, format="transcript") == PAIR
  assert read(row).prompt[0].content == row["prompt"]  # a text as any other


BEGIN = "\n\nHuman: a?\n\nAssistant: It is b.\n\nHuman: c?\n\nAssistant:"
ALIKE = {  # the answers begin alike, and hold a paragraph
  "chosen": BEGIN + " I think\n\nit is d.",
  "rejected": BEGIN + " I think\n\nit is e.",
}


def test_what_is_shared_is_found_turn_by_turn():
  found = read(ALIKE)
  assert [m.content for m in found.prompt] == ["a?", "It is b.", "c?"]
  assert [m.role for m in found.prompt] == ["user", "assistant", "user"]
  assert found.completions == ("I think\n\nit is d.", "I think\n\nit is e.")


def test_mutant_what_is_shared_letter_by_letter_is_caught(monkeypatch):
  def letters(chosen, rejected):
    a, b = chosen[-1].content, rejected[-1].content
    n = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    began = Message("assistant", a[:n])
    return (*chosen[:-1], began), (a[n:], b[n:])

  monkeypatch.setattr(preference_readers, "_common", letters)
  with pytest.raises(AssertionError):
    test_what_is_shared_is_found_turn_by_turn()


FAULTS = [
  ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are"),
  ({"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen is empty"),
  ({"prompt": "a", "chosen": "b", "rejected": ""}, "rejected is empty"),
  (
    {
      "chosen": "\n\nHuman: a\n\nAssistant: b",
      "rejected": "\n\nHuman: c\n\nAssistant: d",
    },
    "no common prompt",
  ),
  (
    {"chosen": BEGIN + " x\n\nHuman: y\n\nAssistant: z", "rejected": BEGIN},
    "differ before their last turn: no common prompt",
  ),
  ({"chosen": [said("a")], "rejected": [said("b")]}, "no common prompt"),
  ({"chosen": [USER], "rejected": [USER]}, "do not both end with the assist"),
  ({"chosen": [], "rejected": [USER]}, "do not both end with the assistant"),
  (
    {"prompt": "a", "completions": ["b", "c", "b"], "ranking": [0, 1, 2]},
    "completion 0 and completion 2 are the same",
  ),
  ({"prompt": "a", "completion": "\n", "label": True}, "completion 0 is empty"),
]


@pytest.mark.parametrize("row,want", FAULTS)
def test_what_cannot_be_preferred_is_refused_or_counted(row, want):
  with pytest.raises(ValueError, match=rf"^f:1: .*{want}.*faulty=drop"):
    read(row)
  assert want in read(row, faulty="drop").fault


WRONG = [
  ({"prompt": "a", "chosen": "b"}, {}, "of no known format"),
  ({"prompt": "a"}, {"format": "pair"}, "no field 'chosen'"),
  ({"prompt": "a", "chosen": 1, "rejected": "b"}, {}, "'chosen' is no list"),
  ({"prompt": "", "chosen": "b", "rejected": "c"}, {}, "'chosen' is no trans"),
  ({"prompt": " ", "completion": "b", "label": 1}, {}, "'prompt' is empty"),
  ({"chosen": "a", "rejected": "b"}, {}, "field 'chosen' is no transcript"),
  ({"prompt": "a", "completion": "b", "label": 2}, {}, "'label' is 2, not tr"),
  ({"prompt": "a", "completion": "b", "label": -1}, {}, "'label' is -1, not"),
  ({"prompt": "a", "completion": "b", "label": None}, {}, "'label' is None"),
  (
    {"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1},
    {},
    "a margin is at least 0",
  ),
  (
    {"prompt": "a", "chosen": "b", "rejected": "c", "place": 1},
    {},
    "a place from 0 to below 1",
  ),
  (
    {"prompt": "a", "chosen": "b", "rejected": "c", "labeller": ["d"]},
    {},
    "field 'labeller' is not text",
  ),
]
RANKED = [
  ([0, 1], "leaves out completion 2"),
  ([0, 1, 1, 2], "names completion 1 twice"),
  ([0, 1, 3], "names 3; completions count from 0 to 2"),
  ([0, 1, "c"], "names 'c'; completions count"),
  ([0, True, 2], "names True; completions count"),
  ("0 1 2", "is no list but '0 1 2'"),
  ({}, "holds no judgement"),
  ({"ann": [0, 1]}, "of 'ann' leaves out completion 2"),
]
SCORED = [
  ([1, 2], "no list of 3 numbers"),
  ([1, 2, 6], "holds 6, outside --data.sources.N.scale=1,5"),
  ([1, 2, float("nan")], "no finite number"),
  ([1, 2, True], "holds True, which is no finite number"),
  ([1, 2, None], "holds None, which is no finite number"),
]
SEVERAL = {"prompt": "Why?", "completions": list(COMPLETIONS)}


@pytest.mark.parametrize("row,settings,want", WRONG)
def test_wrong_rows_name_file_line_and_field(row, settings, want):
  with pytest.raises(ValueError, match="^f:1: .*") as e:
    read(row, **settings)
  assert want in str(e.value)


@pytest.mark.parametrize("ranking,want", RANKED)
def test_wrong_rankings(ranking, want):
  with pytest.raises(ValueError, match="^f:1: field 'ranking'") as e:
    read(SEVERAL | {"ranking": ranking})
  assert want in str(e.value)


@pytest.mark.parametrize("scores,want", SCORED)
def test_wrong_scores(scores, want):
  with pytest.raises(ValueError, match="^f:1: field 'scores'") as e:
    read(SEVERAL | {"scores": scores}, scale=(1.0, 5.0))
  assert want in str(e.value)


def test_wrong_lists_of_completions():
  for completions in (["a"], "ab", None):
    row = {"prompt": "a", "completions": completions, "ranking": [0]}
    with pytest.raises(ValueError, match="'completions' is no list of two"):
      read(row)
  with pytest.raises(ValueError, match=r"completions\[1\] is not text but 3"):
    read({"prompt": "a", "completions": ["b", 3], "ranking": [0, 1]})


def test_rankings_ranks_and_scores():
  found = read(SEVERAL | {"ranking": [2, [0, 1]]})
  assert found.completions == COMPLETIONS
  assert found.pairs() == ([(2, 0), (2, 1)], [0.0, 0.0], 1)
  assert found == read(SEVERAL | {"ranks": [1, 1, 0]})
  assert found.ranks() == [1, 1, 0]
  scored = read(SEVERAL | {"scores": [2, 5, 2.5]})
  assert scored.pairs() == ([(1, 0), (2, 0), (1, 2)], [3.0, 0.5, 2.5], 0)
  assert scored.likes() == [False, True, None]


def test_mutant_a_ranking_read_as_ranks_is_caught(monkeypatch):
  """[2, 0, 1] is "2 is best", not "0 is the third"."""
  want = [(0, 1), (2, 0), (2, 1)]
  assert read(SEVERAL | {"ranking": [2, 0, 1]}).pairs().pairs == want
  monkeypatch.setattr(preference_readers, "_ranking", preference_readers._ranks)
  assert read(SEVERAL | {"ranking": [2, 0, 1]}).pairs().pairs != want


def test_labels():
  for value, want in ((True, 1), (0, 0), ("true", 1), (1.0, 1), ("False", 0)):
    found = read({"prompt": "Why?", "completion": "so", "label": value})
    assert found == Preference(ASKED, ("so",), "like", ((want,),))
    assert found.likes() == [bool(want)]
    assert found.pairs().pairs == []


def test_several_labellers_in_one_row_or_in_many():
  judged = {"ann": [0, 1, 2], "bob": [0, 2, 1], "cat": [1, 0, 2]}
  one = read(SEVERAL | {"ranking": judged})
  listed = [{"labeller": n, "ranking": r} for n, r in judged.items()]
  assert read(SEVERAL | {"ranking": listed}) == one
  rows = [
    ("f:1", read(SEVERAL | {"ranking": r, "labeller": n}))
    for n, r in judged.items()
  ]
  assert list(gathered(rows)) == [one]
  # By majority 0 beats 1 and 2, and 1 beats 2.
  assert one.pairs().pairs == [(0, 1), (0, 2), (1, 2)]
  with pytest.raises(ValueError, match="f:1: labeller 'ann' judges these"):
    list(gathered([*rows, rows[0]]))


def test_labellers_who_choose_otherwise_judge_the_same():
  ann = PAIRS[0] | {"labeller": "ann", "margin": 3}
  bob = {"prompt": "Why?", "chosen": "no reason", "rejected": "because"}
  bob |= {"labeller": "bob", "margin": 1}
  cat = ann | {"labeller": "cat", "margin": 2}
  rows = [("f:1", read(r)) for r in (ann, bob, PAIRS[0], cat)]
  alone, together = gathered(rows)
  assert alone == PAIR
  assert together.labellers == ("ann", "bob", "cat")
  assert together.values == ((1, 0), (0, 1), (1, 0))
  (pair,), (margin,), _ = together.pairs()
  assert pair == (0, 1) and margin == pytest.approx((3 - 1 + 2) / 3)
  two = next(gathered(rows[:2]))
  assert two.pairs() == ([], [], 1)  # one against one


def test_fields_may_have_other_names():
  row = {"query": "Why?", "good": "because", "bad": "no reason"}
  names = ("prompt=query", "chosen=good", "rejected=bad")
  assert read(row, fields=names) == PAIR
  with pytest.raises(ValueError, match="N.fields=prompt: expected OURS=THEIRS"):
    PreferenceForm(fields=("prompt",)).about()
  with pytest.raises(ValueError, match=r"N.scale=5.0,1.0: expected the lowest"):
    PreferenceForm(scale=(5.0, 1.0)).about()
  base = PreferenceForm().about()
  for change in ({"faulty": "drop"}, {"scale": (1.0, 5.0)}, {"fields": names}):
    assert PreferenceForm(**change).about() != base


EVERY = [
  PAIR,
  dataclasses.replace(PAIR, margin=2.0, place=0.25, task="t"),
  dataclasses.replace(PAIR, labellers=("ann",)),
  dataclasses.replace(PAIR, values=((0, 0),)),
  read(SEVERAL | {"ranking": {"ann": [0, 1, 2], "bob": [[0, 2], 1]}}),
  read(SEVERAL | {"scores": [1, 2.5, 0]}),
  read({"prompt": "Why?", "completion": "so", "label": False}),
]


@pytest.mark.parametrize("given", EVERY)
def test_there_and_back(given):
  assert from_json(given.to_json()) == given
  (row,) = given.rows()
  again = read(row)
  assert again.pairs() == given.pairs()
  assert again.likes() == given.likes()
  for name in ("prompt", "completions", "labellers", "place", "task", "margin"):
    assert getattr(again, name) == getattr(given, name)


def test_likes_of_many_are_many_rows():
  both = Preference(ASKED, ("a", "b"), "like", ((1, 0), (1, 1)), ("x", "y"))
  assert both.pairs().pairs == [(0, 1)] and both.likes() == [True, None]
  rows = [("f:1", read(r)) for r in both.rows()]
  assert len(rows) == 4
  assert [p.likes() for p in gathered(rows)] == [[True], [None]]


def test_files(tmp_path):
  rows = [{k: v for k, v in r.items()} for r in PAIRS]
  chats.jsonl(tmp_path / "a.jsonl", rows[:3])
  chats.packed(tmp_path / "b.jsonl.gz", [*rows[3:], FAULTS[0][0]])
  source = PreferenceFiles(paths=(str(tmp_path),), faulty="drop")
  *found, last = map(from_json, source.documents())
  assert found == [PAIR] * len(PAIRS)
  assert last.fault.startswith(f"{tmp_path / 'b.jsonl.gz'}:4: chosen and rej")
  strict = dataclasses.replace(source, faulty="error")
  with pytest.raises(ValueError, match=r"b.jsonl.gz:4: chosen and rejected"):
    list(strict.documents())
  assert strict.identity(chats.plain) != source.identity(chats.plain)
  (tmp_path / "c.jsonl").touch()
  with pytest.raises(ValueError, match=r"c.jsonl: the file is empty"):
    list(source.documents())


def test_parquet(tmp_path):
  import pyarrow as pa
  from pyarrow import parquet

  rows = [SEVERAL | {"scores": [1.0, 2.0, 3.0]}, SEVERAL | {"scores": [1.0]}]
  parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
  found = PreferenceFiles(paths=(str(tmp_path),)).documents()
  assert from_json(next(found)) == read(rows[0])
  with pytest.raises(ValueError, match=r"a.parquet: row 2: field 'scores'"):
    next(found)


def test_tfds(tmp_path):
  features = lambda f: {
    "prompt": f.Text(),
    "completions": f.Sequence(f.Text()),
    "ranking": f.Sequence(f.Scalar(np.int64)),
    "scores": f.Sequence(f.Scalar(np.float32)),
    "labeller": f.Text(),
  }
  by_name = {"ann": [0, 1, 2], "bob": [2, 1, 0]}
  examples = [
    SEVERAL | {"ranking": r, "labeller": n, "scores": [1.0, 2.0, 0.5]}
    for n, r in by_name.items()
  ]
  folder = chats.tfds_folder(tmp_path, examples, features, "judged")
  source = TFDSPreferences(name=folder)
  (found,) = map(from_json, source.documents())
  assert found == read(SEVERAL | {"ranking": by_name})
  scored = dataclasses.replace(source, format="scores")
  (found,) = map(from_json, scored.documents())
  assert found == read(
    SEVERAL | {"scores": dict.fromkeys(by_name, [1, 2, 0.5])}
  )
  assert source.identity(chats.plain) != scored.identity(chats.plain)
  wrong = dataclasses.replace(source, format="label")
  with pytest.raises(ValueError, match="example 0: no field 'label'; fields"):
    list(wrong.documents())
