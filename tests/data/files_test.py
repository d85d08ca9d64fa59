"""Files give their documents; what is wrong with one is named."""

import gzip
import json
import os

import pyarrow as pa
from pyarrow import parquet
import pytest

from llm_jax.data.files import Files

TEXTS = ["one\n two", "zwei ▁ \u2028 \x00", "", "三"]


def plain(items, total=None, label=""):
  yield from items


def jsonl(path, rows=None, opened=open):
  with opened(path, "wt", encoding="utf-8") as f:
    for row in rows or [{"text": t, "n": 1} for t in TEXTS]:
      f.write(json.dumps(row) + "\n")
  return str(path)


def texts(*paths, **settings):
  return list(Files(tuple(map(str, paths)), **settings).documents())


def message(*paths, **settings):
  with pytest.raises(ValueError) as e:
    texts(*paths, **settings)
  assert "\n" not in str(e.value)
  return str(e.value)


def test_every_kind_gives_the_same_texts(tmp_path):
  jsonl(tmp_path / "a.jsonl")
  jsonl(tmp_path / "a.jsonl.gz", opened=gzip.open)
  parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
  for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
    assert texts(tmp_path / name) == TEXTS, name


def test_another_field(tmp_path):
  path = jsonl(tmp_path / "a.jsonl", [{"question": "a"}, {"question": "b"}])
  assert texts(path, text_field="question") == ["a", "b"]


def test_a_txt_is_one_document_or_its_parts(tmp_path):
  path = tmp_path / "a.txt"
  text = "a\nb\r\n\n \nc\n\n\nd\n"
  path.write_bytes(text.encode())
  assert texts(path) == [text]
  assert texts(path, split_by="line") == ["a", "b", "c", "d"]
  assert texts(path, split_by="paragraph") == ["a\nb\r", "c", "d\n"]


def test_folders_globs_and_one_file_under_two_names(tmp_path, monkeypatch):
  (tmp_path / "sub").mkdir()
  for name in ("b.txt", "a.txt", "sub/c.txt"):
    (tmp_path / name).write_text(name)
  (tmp_path / "note.md").write_text("not text for us")
  want = ["a.txt", "b.txt", "sub/c.txt"]
  monkeypatch.chdir(tmp_path)
  assert texts(tmp_path) == want
  assert texts("**/*.txt") == want
  assert texts("a.txt", tmp_path / "a.txt", "./a.txt") == ["a.txt"]


def test_identity_is_the_content(tmp_path):
  def identity(path, **settings):
    return Files((str(path),), **settings).identity(plain)

  a, b = tmp_path / "a", tmp_path / "b"
  for folder in (a, b):
    folder.mkdir()
    jsonl(folder / "x.jsonl")
  assert identity(a) == identity(b)  # wherever it lies
  assert identity(a, text_field="n") != identity(a)
  same_time = os.stat(b / "x.jsonl").st_mtime_ns
  jsonl(b / "x.jsonl", [{"text": t.upper(), "n": 1} for t in TEXTS])
  os.utime(b / "x.jsonl", ns=(same_time, same_time))
  assert identity(b) != identity(a)
  (a / "x.jsonl").rename(a / "x.txt")  # the same bytes, another document
  jsonl(b / "x.jsonl")
  assert identity(a) != identity(b)


def test_missing_and_unknown(tmp_path):
  assert "--data.sources.N.paths" in message()
  assert "nowhere.txt: no such file" in message(tmp_path / "nowhere.txt")
  assert "no such file" in message(tmp_path)  # an empty folder
  path = tmp_path / "a.csv"
  path.write_text("x")
  assert "a.csv: unknown kind of file; known: .txt" in message(path)


def test_empty(tmp_path):
  path = tmp_path / "a.txt"
  path.touch()
  assert message(path) == f"{path}: the file is empty"


@pytest.mark.parametrize(
  ("line", "said"),
  [
    (b'{"text": "x"', "a.jsonl:2: not JSON"),
    (b"\xff", "a.jsonl:2: not UTF-8: byte 0 is 0xff"),
    (b"[1]", "a.jsonl:2: expected an object, got [1]"),
    (b'{"body": 1, "id": 2}', "text_field=text; fields here: body, id"),
    (b'{"text": 3}', "a.jsonl:2: field 'text' is not text but 3"),
    (b'{"text": null}', "is not text but None"),
    (b'{"text": "a\\ud800"}', "a.jsonl:2: character 1 of field 'text'"),
  ],
)
def test_broken_lines_are_named(line, said, tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'{"text": "fine"}\n' + line + b'\n{"text": "fine"}\n')
  assert said in message(path)
  assert "a.jsonl:2: " in message(path)
  packed = tmp_path / "a.jsonl.gz"
  packed.write_bytes(gzip.compress(path.read_bytes()))
  assert "a.jsonl.gz:2: " in message(packed)


def test_not_utf8_names_the_byte(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes("naïve".encode("latin-1"))
  assert message(path) == f"{path}: not UTF-8: byte 2 is 0xef"


@pytest.mark.parametrize(
  "spoil",
  [lambda b: b[:-20], lambda b: b[:40] + b"@" * 9 + b[49:], lambda b: b"text"],
)
def test_a_broken_archive(spoil, tmp_path):
  rows = [{"text": str(i**9)} for i in range(500)]
  path = tmp_path / "a.jsonl.gz"
  jsonl(path, rows, gzip.open)
  path.write_bytes(spoil(path.read_bytes()))
  assert str(path) in message(path)


def test_a_broken_parquet(tmp_path):
  path = tmp_path / "a.parquet"
  path.write_bytes(b"PAR1 no")
  assert "not a whole parquet file" in message(path)
  parquet.write_table(pa.table({"body": ["a"], "text": [None]}), path)
  assert "row 1: field 'text' is not text" in message(path)
  assert "fields here: body, text" in message(path, text_field="x")
  parquet.write_table(
    pa.table({"text": [str(i**9) for i in range(9999)]}), path
  )
  data = bytearray(path.read_bytes())
  data[50:20000] = bytes(19950)
  path.write_bytes(data)
  assert "not a whole parquet file" in message(path)
