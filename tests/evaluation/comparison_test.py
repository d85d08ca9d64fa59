import pytest

from llm_jax.evaluation import comparison

HERE = {
  "data": {
    "loss": 2.0,
    "token_accuracy": 0.75,
    "exact_match": 0.5,
    "f1": 0.75,
    "tokens": 9.0,
  },
  "text": {"loss": 4.0, "token_accuracy": 0.25, "tokens": 9.0},
  "only here": {"loss": 1.0},
}
THERE = {
  "data": {
    "loss": 5.0,
    "token_accuracy": 0.5,
    "exact_match": 0.0,
    "f1": 0.25,
    "tokens": 9.0,
  },
  "text": {"loss": 3.5, "token_accuracy": 0.5, "tokens": 9.0},
}


def _gains(this, other):
  rows = comparison.compare(this, other)
  return {(r["dataset"], r["measure"]): r["gain"] for r in rows}


def test_gains_are_positive_where_this_run_is_better():
  assert _gains(HERE, THERE) == {
    ("data", "loss"): 3.0,
    ("data", "token_accuracy"): 0.25,
    ("data", "exact_match"): 0.5,
    ("data", "f1"): 0.5,
    ("text", "loss"): -0.5,
    ("text", "token_accuracy"): -0.25,
  }


def test_the_other_way_round_every_sign_changes():
  """A measure whose direction were forgotten would keep its sign."""
  here, there = _gains(HERE, THERE), _gains(THERE, HERE)
  assert {k: -v for k, v in here.items()} == there
  assert set(_gains(HERE, HERE).values()) == {0.0}


def test_rows_hold_both_values():
  first = comparison.compare(HERE, THERE)[0]
  assert first == {
    "dataset": "data",
    "measure": "loss",
    "other": 5.0,
    "this": 2.0,
    "gain": 3.0,
  }


@pytest.mark.parametrize("measure", comparison.BETTER)
def test_less_is_better_of_what_is_spent_only(measure):
  spent = measure in ("loss", "perplexity", "ece", "mse")
  spent = spent or "bits_per" in measure
  gain = _gains({"a": {measure: 1.0}}, {"a": {measure: 2.0}})["a", measure]
  assert gain == (1.0 if spent else -1.0)
