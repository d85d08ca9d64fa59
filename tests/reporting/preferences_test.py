"""What the report and the terminal say of preferences."""

import re

import pytest

from llm_jax.reporting import files, preferences, report, results, tables

MODEL = {
  "loss": 0.5,
  "accuracy": 0.8,
  "margin": 1.25,
  "ece": 0.03,
  "chosen_longer": 0.9,
  "chosen_shorter": 0.6,
  "length_correlation": 0.456,
  "kl": 3.214,
  "kl_error": 0.12,
  "completions": 100.0,
  "pairs": 1234.0,
}
FOUND = {
  "checkpoint_step": 40,
  "split": "test",
  "results": {
    "model": MODEL,
    "majority": {"accuracy": 0.5},
    "longer_is_better": {"accuracy": 0.75},
  },
  "datasets": {"data": MODEL},
  "calibration": [
    {"share": 0.4, "confidence": 0.9, "accuracy": 0.85},
    {"share": 0.6, "confidence": 0.6, "accuracy": 0.65},
  ],
  "reward": {"gain": 0.5, "bias": -0.25},
}


def test_the_verdict_takes_the_better_baseline_and_says_which_way():
  told = results.evaluation(FOUND)
  assert told.verdict == (
    "The model is right on 80.0% of pairs, 5.0 points more than the best"
    " baseline, longer is better."
  )
  assert told.by == "accuracy, a longer bar is better"
  bars = {k: r.bar for k, r in told.results.items()}
  assert bars == pytest.approx(
    {"model": 100, "majority": 62.5, "longer_is_better": 93.75}
  )
  worse = {**FOUND["results"], "model": {**MODEL, "accuracy": 0.6}}
  assert "15.0 points less" in results.evaluation({"results": worse}).verdict


def test_text_is_still_told_as_text():
  """Mutant: whatever has an accuracy is of preferences."""
  text = {"model": {"loss": 2.0, "bits_per_byte": 1.5, "accuracy": 0.4}}
  told = results.evaluation({"results": text})
  assert told.by == "bits/byte, a shorter bar is better"
  assert preferences.told({"results": text}) is None


def test_the_terminal():
  said = tables.evaluation(FOUND)
  assert "length_correlation" not in said
  for line in (
    "pairs: 1,234",
    "correlation of reward and length: 0.46",
    "KL from the reference: 3.21 \u00b1 0.12 nats a completion, of 100 drawn",
    "reward of mean 0, deviation 1: 0.500 r - 0.250",
  ):
    assert line in said.splitlines()


CLASSES = {
  "results": {
    "model": {"accuracy": 0.7, "macro_f1": 0.6, "ece": 0.1, "examples": 1500},
    "majority": {"accuracy": 0.5, "macro_f1": 0.25},
  },
  "split": "test",
  "checkpoint_step": 3,
  "classes": [
    {"class": "bad", "examples": 1200, "precision": None, "recall": 0}
    | {"f1": 0.0},
    {"class": "good", "examples": 300, "precision": 1, "recall": 0.5}
    | {"f1": 2 / 3},
  ],
  "calibration": [{"share": 1, "confidence": 0.4, "accuracy": 0.3}],
  "reward": {"gain": 1, "bias": 2, "normalise": "bias", "completions": 256},
}


def test_classes_are_told_by_class():
  told = results.evaluation(CLASSES)
  assert told.verdict.startswith("The model is right on 70.0% of examples,")
  assert [name for _, name in told.columns] == [
    *("accuracy", "macro F1", "calibration error"),
  ]
  lines = tables.evaluation(CLASSES).splitlines()
  assert "examples: 1,500" in lines
  given = "1.000 r + 2.000, of 256 reference completions"
  assert f"reward of mean 0: {given}" in lines
  rows = [line.split() for line in lines if line.startswith(("bad", "good"))]
  assert rows == [
    ["bad", "1,200", "0.0%", "0.0%"],  # no precision: it is never said
    ["good", "300", "100.0%", "50.0%", "66.7%"],
  ]
  shown = preferences.told(CLASSES)
  assert shown.of == "examples" and len(shown.classes) == 2
  assert preferences.told(FOUND).of == "pairs"
  # What may be as unsure as one of three is drawn from there.
  assert ">0.4<" in shown.svg
  for junk in (3, [3], {"a": 1}, None):
    assert preferences.told(CLASSES | {"classes": junk}).classes == []


def test_what_classes_have_some_of_is_told():
  assert preferences.told(CLASSES).counted == "examples"
  for model, of in (
    ({"word_accuracy": 0.9, "words": 40.0}, "words"),
    ({"word_accuracy": 0.9, "words": 40.0, "f1": 0.5}, "entities"),
  ):
    found = CLASSES | {"results": {"model": model}}
    assert preferences.told(found).counted == of
    assert of in tables.evaluation(found)
    assert "examples" not in tables.evaluation(found)


@pytest.fixture
def page(tmp_path):
  files.write_json(tmp_path / "evaluation.json", FOUND)
  rows = files.Rows(tmp_path / "metrics.jsonl")
  for step in range(1, 5):
    numbers = {"loss": 0.7, "accuracy": 0.5, "margin": -1.0 + step}
    rewards = {"reward_chosen": 0.1 * step, "reward_rejected": -0.1 * step}
    for split in ("train", "validation"):
      rows.append({"step": step, "split": split} | numbers | rewards)
  return report.write(tmp_path).read_text()


def test_the_page_has_curves_and_no_nats_a_token(page):
  for title in ("Loss", "Accuracy", "Margin", "Reward"):
    assert page.count(f'aria-label="{title}"') == 1
  assert 'aria-label="Accuracy by confidence"' in page
  assert "nats/token" not in page and "perplexity" not in page
  for name in ("longer is better 0.750", "chosen 0.400", "rejected -0.400"):
    assert name in page
  assert re.search(r"<td>80.0%</td>\s*<td>1.250</td>\s*<td>3.0%</td>", page)


def test_a_class_of_texts_is_no_reward(page, tmp_path):
  """What was left out of its data is told, too."""
  said = ["3 of 9 examples are longer; they are cut", 7]
  data = {"class": "llm_jax.data.examples:Examples"}
  about = {"settings": {"data": data}, "notes": said}
  files.write_json(tmp_path / "experiment.json", about)
  told = report.write(tmp_path).read_text()
  assert 'aria-label="Reward"' not in told
  assert 'aria-label="Accuracy"' in told and said[0] in told
  data["class"] = "llm_jax.data.preferences:Preferences"
  files.write_json(tmp_path / "experiment.json", about | {"notes": None})
  assert 'aria-label="Reward"' in report.write(tmp_path).read_text()


@pytest.mark.parametrize(
  "calibration",
  [None, 3, [], [3], [{}], [{"confidence": "nan", "accuracy": 1}], {"a": 1}],
)
def test_junk_in_the_file_leaves_the_picture_out(calibration):
  found = FOUND | {"calibration": calibration, "reward": [1]}
  told = preferences.told(found)
  assert told.svg == "" and len(told.facts) == 3
  for junk in ({}, {"results": 3}, {"results": {"model": 4}}):
    assert preferences.told(junk) is None
    results.evaluation(junk)
