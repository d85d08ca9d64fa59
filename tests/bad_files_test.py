"""Bad files: exit code 2, one line that names the flag, nothing left behind."""

import gzip
import json

import pytest

from tests import command
from tests.command import refused


def jsonl(path, *lines):
  path.write_bytes(
    b"\n".join(x.encode() if isinstance(x, str) else x for x in lines)
  )
  return path


GOOD = json.dumps({"text": "good"})
FILES = {
  "missing": (lambda p: p / "none.txt", "none.txt: no such file"),
  "empty": (lambda p: jsonl(p / "a.txt", ""), "a.txt: the file is empty"),
  "empty folder": (lambda p: p / "cache", "without .txt, .jsonl"),
  "empty jsonl": (
    lambda p: jsonl(p / "a.jsonl", "", "", ""),
    "holds no document",
  ),
  "only spaces": (lambda p: jsonl(p / "a.txt", "  \n \n"), "holds no document"),
  "kind": (lambda p: jsonl(p / "a.csv", "a"), "known: .txt, .jsonl"),
  "broken line": (
    lambda p: jsonl(p / "a.jsonl", GOOD, '{"text": "cut'),
    "a.jsonl:2: not JSON",
  ),
  "no field": (
    lambda p: jsonl(p / "a.jsonl", GOOD, '{"body": "b"}'),
    "a.jsonl:2: no field --data.sources.0.text_field=text; fields here: body",
  ),
  "no text": (
    lambda p: jsonl(p / "a.jsonl", GOOD, '{"text": 3}'),
    "a.jsonl:2: field 'text' is not text but 3",
  ),
  "not an object": (
    lambda p: jsonl(p / "a.jsonl", "[1]"),
    "expected an object",
  ),
  "not UTF-8": (
    lambda p: jsonl(p / "a.txt", b"caf\xe9"),
    "a.txt: not UTF-8: byte 3 is 0xe9",
  ),
  "not UTF-8 in a row": (
    lambda p: jsonl(p / "a.jsonl", GOOD, b'{"text": "caf\xe9"}'),
    "a.jsonl:2: not UTF-8",
  ),
  "not gzip": (
    lambda p: jsonl(p / "a.jsonl.gz", GOOD),
    "a.jsonl.gz:1: broken gzip file",
  ),
  "half a gzip": (
    lambda p: jsonl(p / "a.jsonl.gz", gzip.compress(GOOD.encode())[:-9]),
    "broken gzip file",
  ),
  "not parquet": (
    lambda p: jsonl(p / "a.parquet", "PAR1 no"),
    "a.parquet: not a whole parquet file",
  ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_file(case, tmp_path):
  make, want = FILES[case]
  (tmp_path / "cache").mkdir()
  flags = command.train_flags(tmp_path, make(tmp_path))
  assert want in refused(tmp_path, "train", *flags)


def test_no_file_named(tmp_path):
  said = refused(tmp_path, "train", f"--workdir={tmp_path / 'run'}")
  assert "--data.sources.0.paths: no file, folder or glob given" in said


def test_an_unusable_cache(tmp_path):
  path = command.text_file(tmp_path)
  flags = command.train_flags(tmp_path, path)
  flags[1] = f"--data.cache={path}/inside"
  assert f"--data.cache={path}/inside" in refused(tmp_path, "train", *flags)
