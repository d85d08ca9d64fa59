"""What reports say of drawn answers, whatever the file holds."""

import json

import pytest

from llm_jax.reporting import answers, report, tables

CURVE = [
  {"n": 1.0, "kl": 0.0, "score": 0.5, "score_error": 0.1, "length_score": -3.0},
  {"n": 2.0, "kl": 0.2, "score": 1.5, "score_error": 0.1, "length_score": -9.0},
]
JUDGES = {"score": "RewardModel (rm)", "length_score": "Length"}
FOUND = {
  "checkpoint_step": 1,
  "split": "validation",
  "results": {"model": {"loss": 1.0}},
  "datasets": {"data": {"loss": 1.0}},
  "said": {
    "data": {
      "best_of": {"judges": JUDGES, "curve": CURVE},
      "answers": [{"prompt": "why?", "text": "so", "score": 0.25}],
    }
  },
}


def test_a_picture_for_each_judge():
  one, two = answers.best_of({"": FOUND})
  assert one.title == "Best of n by RewardModel (rm)"
  assert (one.unit, two.unit) == (
    "chosen by it",
    "chosen by the first judge",
  )
  assert ">2</text>" in one.svg and "KL of the best of n" in one.svg
  assert one.legend == []
  # Several runs share a picture, and n is told once.
  both = answers.best_of({"a": FOUND, "b": FOUND})
  assert [line.name for line in both[0].legend] == ["a", "b"]
  assert [list(line.notes) for line in both[0].legend] == [["1", "2"], ["", ""]]
  silent = {**FOUND, "said": {}}  # mutant: n is told of the first run alone
  one, _ = answers.best_of({"a": silent, "b": FOUND})
  assert ">2</text>" in one.svg
  assert len(both) == 2 and both[0].legend[1].spread == [0.1, 0.1]
  assert both[1].legend[0].values == [-3.0, -9.0]  # mutant: the first's again


def test_of_one_answer_nothing_is_chosen():
  best = {"judges": JUDGES, "curve": CURVE[:1]}
  assert answers.best_of({"": {"said": {"data": {"best_of": best}}}}) == []


def test_the_right_answer_and_the_best_one_stand_beside_it():
  one = {
    "prompt": "why?",
    "text": "so",
    "reference": "7",  # a number, and no score
    "score": 0.25,
    "best": {"of": 8, "text": "because", "score": 2.0},
  }
  (told,) = answers.answers({"said": {"data": {"answers": [one]}}})["data"]
  assert told.scores == "score 0.25" and told.best.scores == "score 2.00"
  rows = answers.all_of([("a", told), ("b", told)])
  assert [(who, its.text) for who, its in rows] == [
    ("reference", "7"),
    ("a", "so"),
    ("a, best of 8", "because"),
    ("b", "so"),
    ("b, best of 8", "because"),
  ]
  one = answers.Answer("why?", "so", "")
  assert answers.all_of([("a", one)]) == [("a", one)]


def test_the_page_and_the_table(tmp_path):
  (tmp_path / "evaluation.json").write_text(json.dumps(FOUND), encoding="utf-8")
  page = report.write(tmp_path).read_text(encoding="utf-8")
  for part in ("Best of n by Length", "why?", "so", "score 0.25"):
    assert part in page, part
  said = tables.evaluation(FOUND)
  row = next(line for line in said.splitlines() if line.startswith("2 "))
  assert row.split() == ["2", "0.2000", "1.5000", "-9.0000"]
  assert "data: best of" in said and "RewardModel (rm)" in said
  both = {"data": {"loss": 1.0}, "asked": {"score": 2.0, "rouge_score": 0.125}}
  lines = tables.evaluation({**FOUND, "datasets": both}).splitlines()
  assert lines[-3].split()[-2:] == ["score", "ROUGE-L"]
  assert lines[-1].split() == ["asked", "2.0000", "0.1250"]


@pytest.mark.parametrize(
  "said",
  [
    None,
    3,
    {"data": 3},
    {"data": {"best_of": 3, "answers": 3}},
    {"data": {"best_of": {"judges": JUDGES, "curve": [3, {}]}}},
    {"data": {"best_of": {"judges": 3, "curve": CURVE}, "answers": [3]}},
  ],
)
def test_a_broken_file_says_nothing(said):
  assert answers.best_of({"": {"said": said}}) == []
  assert answers.answers({"said": said}) == {}
