"""Curves of a run that learns from what it draws itself."""

import math

import pytest

from llm_jax.reporting import drawn, files, pictures, report, results

PER_UPDATE = 4


def rows(steps=12):
  """Updates of four steps, whose minibatches differ a little."""
  out = []
  for step in range(1, steps + 1):
    update = -(-step // PER_UPDATE)
    part = (step - 1) % PER_UPDATE - 1.5  # of mean 0
    out.append(
      {
        "step": step,
        "split": "train",
        "score": update + 0.1 * part,
        "kl": 2.0 * update - 0.1 * part,
        "length": 9.0,
        "ended": 1.0,
        "entropy": 2.0,
        "clipped": 0.1,
        "policy_loss": -0.1,
        "loss": -0.1,
      }
    )
  held_out = {"step": 8, "split": "validation", "loss": -3.0, "length": 9.0}
  return [*out, held_out | {"score": 3.0, "kl": 4.5}]


def test_a_point_is_the_mean_of_an_update():
  train, held_out = drawn.against(results.Rows(rows()), PER_UPDATE)
  assert train.steps == pytest.approx([2, 4, 6])
  assert train.values == pytest.approx([1, 2, 3])
  assert list(train.notes) == ["update 1", "", "update 3"]
  assert (list(held_out.steps), list(held_out.values)) == ([4.5], [3.0])
  assert list(held_out.notes) == ["step 8"]
  # Mutant: each row is an update.
  wrong, _ = drawn.against(results.Rows(rows()), 1)
  assert len(wrong.steps) == 12
  # What was not logged, or is not finite, leaves the rest of an update.
  some = [r for r in rows() if r["step"] % 3 == 0 or r["split"] != "train"]
  some[0]["score"] = math.nan
  train, _ = drawn.against(results.Rows(some), PER_UPDATE)
  assert len(train.steps) == len(train.values) == 2
  assert list(train.notes) == ["update 2", "update 3"]


def test_which_pictures_there_are():
  titles = lambda found: [p["title"] for p in found]
  found = pictures.pictures(results.Rows(rows()), None, PER_UPDATE)
  assert titles(found)[:3] == [
    "Score against KL",
    "Score",
    "KL from the reference",
  ]
  assert "Loss" not in titles(found)  # that of validation is the score
  assert "Parts of the score" not in titles(found)
  told = [{**r, "part_Line": 0.5} for r in rows()]
  found = pictures.pictures(results.Rows(told), None, PER_UPDATE)
  assert "Parts of the score" in titles(found)
  plain = [{"step": 1, "split": "train", "loss": 1.0}]
  assert titles(pictures.pictures(results.Rows(plain), None)) == ["Loss"]
  # Without a reference there is no KL.
  bare = [{k: v for k, v in r.items() if k != "kl"} for r in rows()]
  found = titles(pictures.pictures(results.Rows(bare), None, PER_UPDATE))
  assert found[0] == "Score"


def test_the_page_of_such_a_run(tmp_path):
  for row in rows():
    files.Rows(tmp_path / "metrics.jsonl").append(row)
  settings = {"rollouts": {"epochs": 2, "batch": 64}, "batch_size": 32}
  files.write_json(
    tmp_path / "experiment.json",
    {"name": "x", "settings": settings, "parameters": 5, "trained": 10},
  )
  page = report.write(tmp_path).read_text(encoding="utf-8")
  assert ">update 3</text>" in page and ">update 12</text>" not in page
  assert "validation loss" not in page  # it is the score, negated
  assert "<b>3.000</b>" in page and "all weights train" in page
