"""The report and the terminal show what was gained and what was lost."""

import copy

import pytest

from llm_jax.reporting import comparisons, files, report, tables


def _row(dataset, measure, other, this, gain):
  return {
    "dataset": dataset,
    "measure": measure,
    "other": other,
    "this": this,
    "gain": gain,
  }


FOUND = {
  "checkpoint_step": 40,
  "split": "test",
  "results": {"model": {"loss": 2.0, "exact_match": 0.5}},
  "datasets": {
    "data": {"loss": 2.0, "exact_match": 0.5},
    "text <b>": {"loss": 4.5},
  },
  "against": {
    "run": "runs/<base>",
    "checkpoint_step": 600,
    "datasets": {},
    "comparison": [
      _row("data", "loss", 5.0, 2.0, 3.0),
      _row("data", "perplexity", 148.4, 7.4, 141.0),
      _row("data", "exact_match", 0.0, 0.5, 0.5),
      _row("text <b>", "loss", 4.2, 4.5, -0.3),
    ],
  },
}


def test_bars_go_to_the_side_of_their_sign_each_measure_by_its_largest():
  found = comparisons.comparison(FOUND)
  assert (found.run, found.step) == ("runs/<base>", 600)
  assert [(r.dataset, r.measure, r.change) for r in found.rows] == [
    ("data", "loss", "gained 3.000"),
    ("", "exact match", "gained 50.0 points"),
    ("text <b>", "loss", "lost 0.300"),
  ]
  assert [r.bar for r in found.rows] == pytest.approx([100, 100, -10])


def test_what_did_not_change_is_the_same():
  same = copy.deepcopy(FOUND)
  same["against"]["comparison"] = [_row("data", "loss", 2.0, 2.0, 0.0)]
  (row,) = comparisons.comparison(same).rows
  assert (row.change, row.bar) == ("same", 0.0)


@pytest.mark.parametrize(
  "against",
  [None, [], 3, {}, {"comparison": 3}, {"comparison": [3, {"measure": []}]}],
)
def test_junk_in_the_file_leaves_the_table_out(against, tmp_path):
  assert comparisons.comparison(FOUND | {"against": against}) is None
  files.write_json(
    tmp_path / "evaluation.json", FOUND | {"against": against, "datasets": 3}
  )
  assert "Gained" not in report.write(tmp_path).read_text()


def test_the_page_shows_both_tables_and_escapes_names(tmp_path):
  files.write_json(tmp_path / "evaluation.json", FOUND)
  page = report.write(tmp_path).read_text()
  assert "text &lt;b&gt;" in page and "runs/&lt;base&gt;" in page
  assert "<base>" not in page
  assert page.count('<i class="gained" style="width: 100.0%"') == 2
  assert page.count('<i class="lost" style="width: 10.0%"') == 1
  assert "<td>50.0%</td>" in page


def test_one_dataset_without_questions_needs_no_table_of_its_own():
  alone = {"datasets": {"data": {"loss": 2.0}}}
  assert comparisons.datasets(alone) is None
  answered = {"data": {"accuracy": 0.9}, "text": {"token_accuracy": 0.5}}
  told = comparisons.datasets({"datasets": answered})
  assert told.columns == ["accuracy", "token accuracy"]
  assert told.rows == [("data", ["90.0%", ""]), ("text", ["", "50.0%"])]


def test_the_terminal_tells_gains_from_losses():
  lines = tables.evaluation(FOUND).splitlines()
  at = next(i for i, x in enumerate(lines) if x.startswith("other: "))
  assert lines[at] == "other: runs/<base>, checkpoint 600"
  assert lines[at + 1].split() == "measure other this gained lost".split()
  assert lines[at + 2].split() == "data loss 5.0000 2.0000 3.0000".split()
  lost = lines[at + 5]
  assert lost.split() == "text <b> loss 4.2000 4.5000 0.3000".split()
  assert lost.endswith("0.3000") and not lines[at + 2].endswith("3.0000")


def test_runs_without_a_measure_in_common_are_told_so():
  """A reward model beside a base: no headline over an empty table."""
  results = {"model": {"loss": 1.0}}
  row = {"dataset": "d", "measure": "loss", "other": 2.0, "this": 1.0}
  against = {"run": "runs/a", "checkpoint_step": 3, "comparison": []}
  found = {"split": "validation", "checkpoint_step": 2, "results": results}
  said = tables.evaluation(found | {"against": against})
  assert "no measure that both runs have" in said and "gained" not in said
  against = against | {"comparison": [row | {"gain": 1.0}]}
  said = tables.evaluation(found | {"against": against})  # the mutant
  assert "no measure" not in said and "gained" in said
