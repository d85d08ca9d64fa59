"""Labelled texts as rows: what is read, named, cut, parted; and what is bad."""

import dataclasses
import json

import numpy as np
import pytest

from llm_jax.data import example_rows, exampled, sides
from llm_jax.data.class_names import ClassNames
from llm_jax.data.example import Example, from_json, label_of
from llm_jax.data.example_sources import (
  ExampleFiles,
  ExampleForm,
  TFDSExamples,
)
from llm_jax.data.examples import Examples
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_examples import PACKAGES, StdlibExamples
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.data import chats, hosts

BYTES = ByteTokenizer()
MOODS = ("glad", "sad", "tired")
ROWS = [{"text": f"t{i}", "label": MOODS[i % 3]} for i in range(40)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("examples")


def settings(home, given=ROWS, **changes):
  path = home / f"{abs(hash(json.dumps(given)))}.jsonl"
  chats.jsonl(path, given)
  made = Examples(
    sources=(ExampleFiles(paths=(str(path),)),),
    length=24,
    widths=1,
    validation=0.2,
    cache=str(home / "cache"),
  )
  return dataclasses.replace(made, **changes)


def tokenised(its):
  return its.prepare(chats.plain).tokenise(BYTES, chats.plain)


def made(home, given=ROWS, **changes):
  return tokenised(settings(home, given, **changes))


def told(batch, names=None):
  """(text, what is told of it) of the rows that are there."""
  (column,) = {"class_B", "classes_BO", "number_B"} & set(batch)
  out = []
  for i in np.flatnonzero(batch["mask_BT"].any(1)):
    ids = batch["tokens_BT"][i][batch["segment_BT"][i] > 0]
    label = batch[column][i].tolist()
    out.append((BYTES.decode(ids), names[label] if names else label))
  return out


def every(data, names=None):
  """What is told of each split."""
  return {
    split: [x for b in data.held_out(split, 8) for x in told(b, names)]
    for split in ("train", "validation")
  }


def check_rows(data):
  found = every(data, data.classes)
  want = sorted((r["text"], r["label"]) for r in ROWS)
  assert sorted(sum(found.values(), [])) == want
  assert all(found.values()) and data.classes == MOODS


def test_every_text_is_a_row_with_its_class(home):
  data = made(home)
  check_rows(data)
  assert data.notes == []
  batch = data.train(8, 0).next()
  assert batch["class_B"].dtype == np.int32 and batch["class_B"].shape == (8,)
  whole = sorted((r["text"], r["label"]) for r in ROWS)
  assert set(told(batch, MOODS)) <= set(whole)


def test_mutant_labels_of_other_rows_are_caught(home, monkeypatch):
  class Turned(exampled.ExampleRows):
    def row(self, epoch, index):
      out = super().row(epoch, index)
      return out | {"class_B": (out["class_B"] + 1) % 3}

  monkeypatch.setattr(exampled, "ExampleRows", Turned)
  with pytest.raises(AssertionError):
    check_rows(made(home))


@pytest.mark.parametrize("read_at", ["first", "last"])
def test_one_position_tells_and_a_row_begins_and_ends_as_texts_do(
  home, read_at
):
  rows = [{"text": "ab", "text_pair": "c", "label": i % 2} for i in range(20)]
  (batch,) = made(home, rows, read_at=read_at, validation=0.0).held_out(
    "train", 20
  )
  a, b, c = BYTES.encode("abc")
  start, eos = BYTES.start_id, BYTES.eos_id
  for row, mask in zip(batch["tokens_BT"], batch["mask_BT"], strict=True):
    assert row[:6].tolist() == [start, a, b, eos, c, eos] and not row[6:].any()
    assert mask.tolist().index(True) == {"first": 0, "last": 5}[read_at]
    assert mask.sum() == 1
  assert batch["type_BT"][0, :6].tolist() == [0, 0, 0, 0, 1, 1]


def check_source(home):
  """A source is its target, as wide; what is cut away holds nothing."""
  rows = [{"text": "a" * (i // 4 + 1), "label": i % 2} for i in range(40)]
  whole, cut = (
    made(home, rows, source=SourceSide(24, "bos"), widths=n, validation=0.0)
    for n in (1, 4)
  )
  widths = set()
  for one, other in zip(
    *(d.held_out("train", 8) for d in (whole, cut)), strict=True
  ):
    width = other["tokens_BT"].shape[1]
    widths.add(width)
    assert other["source_BS"].shape == (8, width)
    np.testing.assert_array_equal(other["source_BS"], other["target_BT"])
    for name, x in other.items():
      if name != "class_B":
        np.testing.assert_array_equal(x, one[name][:, :width], name)
        assert not one[name][:, width:].any(), name
  assert len(widths) > 1 and max(widths) < 24
  batch = cut.train(8, 0).next()
  assert batch["source_BS"].shape == batch["tokens_BT"].shape


def test_a_source_is_cut_as_its_target_is(home):
  check_source(home)


def test_mutant_a_source_that_is_never_cut_is_caught(home, monkeypatch):
  monkeypatch.setattr(sides, "letters", lambda source: "T")
  with pytest.raises(AssertionError):
    check_source(home)


def test_sets_and_numbers(home):
  sets = [[], ["a"], ["b", "a"], ["c"]]
  rows = [{"text": f"{i}", "label": sets[i % 4]} for i in range(16)]
  data = made(home, rows, rows="class_sets", validation=0.0)
  assert data.classes == ("a", "b", "c")
  found = dict(x for b in data.held_out("train", 8) for x in told(b))
  want = {"0": [0, 0, 0], "1": [1, 0, 0], "2": [1, 1, 0], "3": [0, 0, 1]}
  assert {k: list(map(int, found[k])) for k in want} == want
  rows = [{"text": f"{i}", "label": i / 4} for i in range(16)]
  data = made(home, rows, rows="numbers", validation=0.0)
  assert data.classes == ()
  batch = next(iter(data.held_out("train", 16)))
  assert batch["number_B"].dtype == np.float32
  assert dict(told(batch)) == {r["text"]: r["label"] for r in rows}


def test_classes_are_numbered_as_they_are_named(home):
  assert ClassNames.found(["b", "a", "b"]).names == ("a", "b")
  assert ClassNames.found(["10", "9", "2"]).names == ("2", "9", "10")
  given = ClassNames(("no", "yes"), by_number=True)
  assert [given.number(x) for x in ("yes", "1", "0", "2", "?")] == [
    *(1, 1, 0, None, None)
  ]
  stars = ClassNames(("1", "2"), by_number=True)
  assert [stars.number(x) for x in ("1", "2", "0")] == [0, 1, None]
  assert ClassNames(("a", "b")).number("1") is None
  # As GLUE has them: numbers, whose names a flag gives.
  rows = [{"text": f"{i}", "label": i % 2} for i in range(20)]
  assert made(home, rows).classes == ("0", "1")
  data = made(home, rows, classes=("no", "yes"), validation=0.0)
  assert data.classes == ("no", "yes")
  (batch,) = data.held_out("train", 20)
  assert all(int(text) % 2 == c for text, c in told(batch))
  turned = made(home, rows, classes=("1", "0"), validation=0.0)
  (batch,) = turned.held_out("train", 20)
  assert all(int(text) % 2 == 1 - c for text, c in told(batch))
  assert turned.identity != data.identity


def test_an_unseen_class_is_told(home):
  rows = [*ROWS, {"text": "odd", "label": "angry"}]
  train, odd = (settings(home, r).sources[0] for r in (ROWS, rows[-1:]))
  odd = dataclasses.replace(odd, into="validation")
  its = settings(home, sources=(train, odd))
  with pytest.raises(ValueError) as e:
    tokenised(its)
  assert str(e.value) == (
    "the validation split has the class 'angry', and the train split has glad,"
    " sad, tired; --data.classes names all of them (--data.sources.1)"
  )
  both = dataclasses.replace(its, classes=(*MOODS, "angry"))
  assert tokenised(both).classes == (*MOODS, "angry")


def test_a_source_may_be_one_split(home):
  other = [{"text": f"v{i}", "label": MOODS[i % 3]} for i in range(9)]
  sources = [
    dataclasses.replace(settings(home, rows).sources[0], into=into)
    for rows, into in ((ROWS, "train"), (other, "validation"))
  ]
  data = made(home, sources=tuple(sources))
  found = every(data, MOODS)
  source = data.train(8, 0)
  seen = {text for _ in range(20) for text, _ in told(source.next())}
  assert seen == {r["text"] for r in ROWS}
  assert sorted(text for text, _ in found["train"]) == sorted(
    r["text"] for r in ROWS
  )
  assert sorted(text for text, _ in found["validation"]) == sorted(
    r["text"] for r in other
  )
  assert len(data.labels("validation")["class_B"]) == 9


def test_one_text_is_in_one_split_whatever_is_beside_it(home):
  rows = [
    {"text": f"p{i // 3}", "text_pair": f"h{i}", "label": i % 3}
    for i in range(60)
  ]
  found = every(made(home, rows))
  begins = [{text.split("h")[0] for text, _ in f} for f in found.values()]
  assert all(begins) and not begins[0] & begins[1]


def test_what_is_too_long(home):
  rows = [
    *({"text": f"{i}", "label": i % 2} for i in range(8)),
    {"text": "a" * 30, "text_pair": "b" * 4, "label": 0},
  ]
  its = {"validation": 0.0, "length": 16}
  with pytest.raises(ValueError) as e:
    made(home, rows, **its)
  assert str(e.value) == (
    "--data.length=16: 1 of 9 examples of the train split are longer, the"
    " longest 37 tokens; raise it, or set --data.too_long=cut or drop"
  )
  cut = made(home, rows, too_long="cut", **its)
  assert cut.notes[0].endswith("they are cut")
  (batch,) = cut.held_out("train", 9)
  assert dict(told(batch))["a" * 9 + "b" * 4] == 0
  dropped = made(home, rows, too_long="drop", **its)
  assert dropped.notes[0].endswith("they are dropped")
  (batch,) = dropped.held_out("train", 9)
  assert len(told(batch)) == 8
  with pytest.raises(ValueError, match="--data.length=4: too short for two"):
    made(home, rows, too_long="cut", validation=0.0, length=4)


def test_rows_are_cut_to_the_widest_of_their_batch(home):
  rows = [{"text": "x" * (i % 20), "label": i % 2} for i in range(64)]
  wide = made(home, rows, widths=1, validation=0.0)
  narrow = made(home, rows, widths=4, validation=0.0)
  seen = set()
  splits = (data.held_out("train", 2) for data in (narrow, wide))
  for got, want in zip(*splits, strict=True):
    width = got["tokens_BT"].shape[1]
    assert not want["segment_BT"][:, width:].any()
    assert want["segment_BT"][:, width - 6 : width].any()
    seen.add(width)
    for name, x in want.items():
      x = x[:, :width] if name.endswith("T") else x
      np.testing.assert_array_equal(got[name], x)
  assert len(seen) > 1


def test_hosts_read_their_own_rows_and_a_position_is_one_number(home):
  hosts.batches(lambda: made(home), "tokens_BT")


def test_sources_are_mixed_by_weight_and_joined(home):
  other = [{"text": f"v{i}", "label": "sad"} for i in range(10)]
  sources = tuple(settings(home, r).sources[0] for r in (ROWS, other))
  data = made(home, sources=sources, weights=(1.0, 3.0), validation=0.0)
  source = data.train(8, 0)
  texts = [t for _ in range(20) for t, _ in told(source.next())]
  share = np.mean([t.startswith("v") for t in texts])
  assert abs(share - 0.75) < 0.02
  held = [t for b in data.held_out("train", 8) for t, _ in told(b)]
  assert held == [r["text"] for r in [*ROWS, *other]]
  joined = example_rows.Joined([range_rows(3), range_rows(0), range_rows(2)])
  assert [joined.row(0, i)["x"] for i in range(len(joined))] == [0, 1, 2, 0, 1]


def range_rows(size):
  class Rows:
    def __len__(self):
      return size

    def row(self, epoch, index):
      assert index < size
      return {"x": index}

  return Rows()


@pytest.mark.parametrize(
  "text,name",
  [
    ("sentence\tlabel\nit's \"fine\t1\nbad\t0\n", "dev.tsv"),
    ('sentence,label\n"it\'s ""fine",1\n\nbad,0\n', "dev.csv"),
    ('\ufeffsentence,label\r\n"it\'s ""fine",1\r\nbad,0\r\n', "b.csv"),
  ],
)
def test_tables_of_text(tmp_path, text, name):
  path = tmp_path / name
  path.write_bytes(text.encode())
  source = ExampleFiles(paths=(str(path),), text="sentence")
  found = list(source.examples("classes"))
  assert found == [Example("it's \"fine", "1"), Example("bad", "0")]
  (_, last) = source.examples("numbers")
  assert last == Example("bad", 0.0)
  assert source.identity(chats.plain) != dataclasses.replace(
    source, label="sentence"
  ).identity(chats.plain)
  assert [from_json(e.to_json()) for e in found] == found


@pytest.mark.parametrize(
  "name,content,says",
  [
    ("a.csv", b"text,text\n", "a.csv:1: two columns have one name"),
    ("a.csv", b"text,label\na\n", "a.csv:2: has 1 values, and line 1 names 2"),
    ("a.tsv", b"text\tlabel\na\tb\tc\n", "a.tsv:2: has 3 values, and line 1"),
    ("a.csv", b'text,label\n"a,1\n', "a.csv:2: unexpected end of data"),
    ("a.csv", b"text,label\na\xff,1\n", "a.csv: not UTF-8, after line "),
    ("a.csv", b"", "a.csv: the file is empty"),
    ("a.jsonl", b"{}\n", "no column --data.sources.N.text=text; columns here"),
    (
      "a.jsonl",
      b'{"text": "a", "is": 1}\n',
      "a.jsonl:1: no column --data.sources.N.label=label; columns here: text,",
    ),
    ("a.jsonl", b'{"text": 5, "label": 1}\n', "a.jsonl:1: field 'text' is not"),
    (
      "a.jsonl",
      b'{"text": "a", "text_pair": 5, "label": 1}\n',
      "a.jsonl:1: field 'text_pair' is not text but 5",
    ),
    (
      "a.jsonl",
      b'{"text": "a", "label": null}\n',
      "a.jsonl:1: column 'label' is None, not the name or the number of a",
    ),
  ],
)
def test_bad_files_say_where(tmp_path, name, content, says):
  (tmp_path / name).write_bytes(content)
  source = ExampleFiles(paths=(str(tmp_path / name),))
  with pytest.raises(ValueError) as e:
    list(source.examples("classes"))
  assert says in str(e.value) and "\n" not in str(e.value)


def test_a_column_that_a_flag_names_must_be_there():
  row = {"text": "a", "label": 1}
  assert ExampleForm().read(row, "f:1", "classes") == Example("a", "1")
  with pytest.raises(ValueError, match=r"no column .*\.text_pair=b; columns"):
    ExampleForm(text_pair="b").read(row, "f:1", "classes")
  found = ExampleForm(text_pair="label", label="text").read(
    {"text": "a", "label": "b"}, "f:1", "classes"
  )
  assert found == Example("a", "a", "b")


@pytest.mark.parametrize(
  "kind,value,want",
  [
    ("classes", True, "true"),
    ("classes", 2, "2"),
    ("classes", 2.0, "2"),
    ("classes", 2.5, r"'l' is 2.5, not the name .*=numbers has a number a"),
    ("classes", ["a"], r"is \['a'\], not the name .*=class_sets has several"),
    ("classes", "glad ", "glad"),
    ("class_sets", ["a", "a "], "not a list of names or numbers of classes, e"),
    ("classes", " ", "is ' ', not the name or the number of a class$"),
    ("class_sets", ["a", 1], ("a", "1")),
    ("class_sets", "a", "not a list of classes .*=classes has one a text"),
    ("class_sets", ["a", "a"], "not a list of names or numbers of classes, ea"),
    ("class_sets", [None], "not a list of names or numbers of classes, each"),
    ("numbers", 2, 2.0),
    ("numbers", "0.5", 0.5),
    ("numbers", "much", "is 'much', not a finite number of 32 bits, as --data"),
    ("numbers", 1e39, r"is 1e\+39, not a finite number of 32 bits"),
    ("numbers", True, "is True, not a finite number"),
    ("numbers", None, "is None, not a finite number"),
    ("numbers", float("inf"), "is inf, not a finite number"),
  ],
)
def test_labels_are_of_their_kind(kind, value, want):
  if isinstance(want, str) and "is" in want or "not a" in str(want):
    with pytest.raises(ValueError, match=want):
      label_of(value, kind, "'l'")
  else:
    assert label_of(value, kind, "'l'") == want


def test_settings_and_splits_that_cannot_be(home):
  for changes, says in (
    ({"classes": ("a",)}, "--data.classes=a: nothing is told apart; two"),
    ({"classes": ("a", "a")}, "--data.classes=a,a: each once"),
    (
      {"classes": ("a", "b"), "rows": "numbers"},
      "--data.classes=a,b: --data.rows=numbers have no classes",
    ),
  ):
    with pytest.raises(ValueError, match=f"^{says}"):
      settings(home, **changes)
  same = [{"text": f"{i}", "label": "a"} for i in range(20)]
  with pytest.raises(ValueError, match="train split has one class alone, a: n"):
    made(home, same)
  none = [{"text": f"{i}", "label": []} for i in range(20)]
  with pytest.raises(ValueError, match="train split has no text of any class"):
    made(home, none, rows="class_sets")
  data = made(home, validation=0.0)
  with pytest.raises(ValueError, match="validation split is empty: raise"):
    data.held_out("validation", 8)
  alone = dataclasses.replace(settings(home).sources[0], into="validation")
  with pytest.raises(ValueError, match="the train split is empty: lower"):
    made(home, sources=(alone,))
  short = made(home, length=5, too_long="drop", validation=0.0)
  assert len(short.labels("train")["class_B"]) == 40
  with pytest.raises(ValueError, match="the train split is empty: no example"):
    made(
      home,
      [{"text": "long" * 9, "label": i % 2} for i in range(9)] * 2,
      length=8,
      too_long="drop",
      validation=0.0,
    ).train(8, 0)


def test_labels_of_tfds_have_names(tmp_path):
  examples = [{"text": f"t{i}", "label": i % 3} for i in range(6)]
  features = lambda f: {"text": f.Text(), "label": f.ClassLabel(names=MOODS)}
  folder = chats.tfds_folder(tmp_path, examples, features, "moods")
  found = list(TFDSExamples(name=folder).examples("classes"))
  assert found == [Example(f"t{i}", MOODS[i % 3]) for i in range(6)]


def test_docstrings_and_their_packages():
  source = StdlibExamples()
  found = list(source.examples("classes"))
  assert {e.label for e in found} == set(PACKAGES)
  assert len({e.text for e in found}) == len(found) > 1000
  assert source.identity(chats.plain) != StdlibExamples(
    ("email", "xml")
  ).identity(chats.plain)
  with pytest.raises(ValueError, match="packages=nothing: no package with do"):
    list(StdlibExamples(("email", "nothing")).examples("classes"))
  with pytest.raises(ValueError, match="--data.rows=numbers: StdlibExamples"):
    list(source.examples("numbers"))
