"""Entities are counted as seqeval, and so conlleval, counts them."""

import json
import pathlib

import hypothesis
from hypothesis import strategies as st
import pytest

from llm_jax.evaluation import entities

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "marks.json"
GOLD = json.loads(PATH.read_text(encoding="utf-8"))["entities"]
TRUE, SAID = GOLD["true"], GOLD["said"]
NAMES = ["O", *(f"{letter}-{kind}" for kind in "AB" for letter in "BIES")]
sentences = st.lists(st.sampled_from(NAMES), max_size=8)


@pytest.mark.parametrize(
  "tags,want",
  [
    ("O B-A I-A O", [("A", 1, 3)]),
    ("I-A I-A B-A", [("A", 0, 2), ("A", 2, 3)]),
    ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
    (
      "S-A S-A B-B E-B I-B",
      [("A", 0, 1), ("A", 1, 2), ("B", 2, 4), ("B", 4, 5)],
    ),
    ("", []),
    ("O O", []),
  ],
)
def test_by_hand(tags, want):
  assert entities.spelled(tags.split()) == want


def figures():
  found = entities.measure(SAID, TRUE)
  return {name: found[name] for name in ("precision", "recall", "f1")}


def test_they_are_seqevals():
  want = dict(GOLD["conlleval"])
  want.pop("each")
  assert figures() == pytest.approx(want, abs=1e-12)
  found = entities.measure(SAID, TRUE)
  assert found["word_accuracy"] == pytest.approx(GOLD["accuracy"], abs=1e-12)
  assert found["words"] == sum(map(len, TRUE))
  for its in entities.of_each(SAID, TRUE):
    want = GOLD["conlleval"]["each"][its["class"]]
    assert its["examples"] == want["support"]
    for ours, theirs in (
      ("precision",) * 2,
      ("recall",) * 2,
      ("f1", "f1-score"),
    ):
      assert its[ours] == pytest.approx(want[theirs], abs=1e-12)


def test_mutant_only_b_begins_an_entity_is_caught(monkeypatch):
  """As IOB2 is read strictly, which is another figure of seqeval."""

  def strict(tags):
    of = entities_spelled(tags)
    return [its for its in of if tags[its[1]].startswith("B-")]

  entities_spelled = entities.spelled
  monkeypatch.setattr(entities, "spelled", strict)
  with pytest.raises(AssertionError):
    test_they_are_seqevals()
  want = dict(GOLD["strict"])
  want.pop("each")
  assert figures() == pytest.approx(want, abs=1e-12)


@hypothesis.given(st.lists(st.tuples(sentences, sentences), min_size=1))
def test_said_and_true_in_each_others_place(pairs):
  """F1 stays, precision and recall change places; the same is all right."""
  pairs = [(a[: len(b)], b[: len(a)]) for a, b in pairs]
  hypothesis.assume(
    entities.are_entities([tag for pair in pairs for x in pair for tag in x])
  )
  said, true = map(list, zip(*pairs, strict=True))
  there, back = entities.measure(said, true), entities.measure(true, said)
  assert (
    there["f1"] == back["f1"]
    and there["word_accuracy"] == back["word_accuracy"]
  )
  assert there["precision"] == back["recall"]
  same = entities.measure(true, true)
  assert same["word_accuracy"] == 1
  if any(entities.spelled(tags) for tags in true):
    assert same["f1"] == 1


def test_tags_that_spell_nothing_are_classes():
  found = entities.measure([["NAME", "OP"]], [["NAME", "NAME"]])
  assert found == {"word_accuracy": 0.5, "words": 2.0}
  each = entities.of_each([["NAME", "OP"]], [["NAME", "NAME"]])
  assert [its["class"] for its in each] == ["NAME", "OP"]
  assert each[0] | {"f1": None} == {
    "class": "NAME",
    "examples": 2,
    "precision": 1.0,
    "recall": 0.5,
    "f1": None,
  }
  assert each[1]["recall"] is None
  with pytest.raises(ValueError, match="no word"):
    entities.measure([], [])
  with pytest.raises(ValueError):
    entities.measure([["O"]], [["O", "O"]])
