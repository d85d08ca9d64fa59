import json
import math

import pytest

from llm_jax import storage
from llm_jax.reporting import files


def _rows(folder, count=4):
  rows = files.Rows(folder / "metrics.jsonl")
  for step in range(1, count + 1):
    rows.append({"step": step, "split": "train", "loss": 1 / step})
  return rows


def test_rows_after_the_restored_step_are_dropped_to_the_byte(tmp_path):
  _rows(tmp_path, 2)
  whole = (tmp_path / "metrics.jsonl").read_bytes()
  (tmp_path / "metrics.jsonl").unlink()
  rows = _rows(tmp_path, 4)
  rows.keep_until(2)
  assert (tmp_path / "metrics.jsonl").read_bytes() == whole
  rows.append({"step": 3, "split": "train", "loss": 1 / 3})
  assert [r["step"] for r in rows.read()] == [1, 2, 3]
  assert rows.read()[2]["loss"] == 1 / 3  # every digit


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_line_cut_short_is_not_a_row_and_spoils_none(tmp_path, cut):
  rows = _rows(tmp_path)
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-cut])
  # The writer was killed: only the end of the line may be missing.
  expected = 4 if cut == 1 else 3
  assert len(rows.read()) == expected
  rows.keep_until(9)
  rows.append({"step": 5, "split": "train", "loss": 0.0})
  assert len(rows.read()) == expected + 1
  for line in path.read_text().splitlines():
    json.loads(line)


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"\0" * 9 + b"\n", b"3\n"])
def test_junk_between_rows_is_passed_over(tmp_path, junk):
  rows = _rows(tmp_path)
  with (tmp_path / "metrics.jsonl").open("ab") as f:
    f.write(junk)
  rows.append({"step": 5, "split": "train", "loss": 0.0})
  rows.keep_until(9)
  assert [r["step"] for r in rows.read()] == [1, 2, 3, 4, 5]
  assert junk not in (tmp_path / "metrics.jsonl").read_bytes()


def test_without_dropping_the_cut_line_the_next_row_is_lost(tmp_path):
  # The mutant: appending to a torn line instead of calling keep_until.
  rows = _rows(tmp_path)
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes()[:-5])
  rows.append({"step": 5, "split": "train", "loss": 0.0})
  assert [r["step"] for r in rows.read()] == [1, 2, 3]


def test_numbers_that_json_has_not_are_strings(tmp_path):
  rows = files.Rows(tmp_path / "metrics.jsonl")
  rows.append({"step": 1, "loss": math.nan, "a": math.inf, "b": -math.inf})

  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  text = (tmp_path / "metrics.jsonl").read_text()
  row = json.loads(text, parse_constant=refuse)
  assert (row["loss"], row["a"], row["b"]) == ("nan", "inf", "-inf")
  with pytest.raises(AssertionError):  # the mutant: json's own spelling
    json.loads(json.dumps({"loss": math.nan}), parse_constant=refuse)
  rows.keep_until(1)
  assert (tmp_path / "metrics.jsonl").read_text() == text


def test_no_file_means_no_rows(tmp_path):
  rows = files.Rows(tmp_path / "none" / "metrics.jsonl")
  rows.keep_until(3)
  assert rows.read() == [] and not (tmp_path / "none").exists()


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  files.write_json(path, {"old": 1})

  def full(fd):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(storage.os, "fsync", full)
  with pytest.raises(OSError, match="No space"):
    files.write_json(path, {"new": 2})
  assert files.read_json(path) == {"old": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_broken_json_names_its_file(tmp_path):
  (tmp_path / "a.json").write_text('{"a": ')
  with pytest.raises(ValueError, match="a.json: not JSON"):
    files.read_json(tmp_path / "a.json")
  assert files.read_json(tmp_path / "b.json") is None
