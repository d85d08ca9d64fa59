"""Words with tags and questions about texts: rows, windows, sources, errors."""

import dataclasses
import json
import math

import numpy as np
import pytest

from llm_jax.data import framing, splits, stdlib, tagged, windowed
from llm_jax.data.passage import Passage
from llm_jax.data.passage_sources import PassageFiles, Told
from llm_jax.data.passages import Passages
from llm_jax.data.sides import SourceSide
from llm_jax.data.stdlib_passages import StdlibPassages
from llm_jax.data.stdlib_tags import StdlibTags, tags
from llm_jax.data.tag_sources import ColumnFiles, TagFiles
from llm_jax.data.tagged import Sentence
from llm_jax.data.tags import Tags
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.tokenizers import lossless_test

quiet = lambda items, **about: items
ALL = splits.Shares("hash", 0.0, 0.0)


class Lines(list):
  """Prepared documents that lie in no cache."""

  identity = "lines"


def told(settings, found, tokenizer=None):
  """What is made of sentences or questions, all of them to train on."""
  tokenizer = tokenizer or ByteTokenizer()
  room = tagged if isinstance(settings, Tags) else windowed
  kind = room.Tagged if room is tagged else room.Windowed
  parts = room._tokenised(iter(found), tokenizer, ALL)
  lines = Lines(its.to_json() for its in found)
  return kind(settings, [lines], tokenizer, [parts])


def rows(found, split="train"):
  made = found.held_out(split, 1)
  return [{n: x[0] for n, x in made[i].items()} for i in range(len(made))]


SENTENCES = [
  Sentence(("ab", "c", "def"), ("O", "B-X", "I-X")),
  Sentence(("\u00e9t\u00e9", "c"), ("B-X", "O")),
]


@pytest.mark.parametrize("kind", ["bytes", "unigram", "bpe"])
def test_the_first_token_of_each_word_has_its_tag(kind):
  t = lossless_test.tokenizer(kind)
  found = told(Tags(length=24, widths=1), SENTENCES, t)
  assert found.classes == ("B-X", "I-X", "O")
  words, numbers = [], []
  for row, sentence in zip(rows(found), SENTENCES, strict=True):
    size = int(row["segment_BT"].sum())
    ids, at = row["tokens_BT"][:size], np.flatnonzero(row["mask_BT"])
    assert ids[0] == t.start_id and ids[-1] == t.eos_id
    assert t.decode(ids[1:-1].tolist()) == sentence.text
    cuts = [*at.tolist(), size - 1]
    words += [
      t.decode(ids[a:b].tolist()).strip()
      for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    numbers += row["tag_BT"][at].tolist()
    assert not row["tag_BT"][~row["mask_BT"]].any()
  assert words == [w for s in SENTENCES for w in s.words]
  want = [found.classes.index(tag) for s in SENTENCES for tag in s.tags]
  assert numbers == want


def test_long_sentences_are_cut_between_words_and_none_is_lost():
  long = Sentence(tuple(f"word{i}" for i in range(9)), ("A", "B", "C") * 3)
  one = Sentence(("x" * 40, "y"), ("A", "B"))  # longer than a row
  found = told(Tags(length=16, widths=1), [long, one])
  seen = {}
  for row in rows(found):
    at = np.flatnonzero(row["mask_BT"])
    assert at.size and row["segment_BT"].sum() <= 16
    for word, tag in zip(row["word_BT"][at], row["tag_BT"][at], strict=True):
      assert word not in seen
      seen[int(word)] = found.classes[tag]
  assert [seen[i] for i in range(11)] == [*long.tags, *one.tags]
  assert found.sentences("train") == [long, one]
  # Mutant: a row that is not cut loses the words at its end.
  whole = tagged._cut(found._parts[0]["train"], 10**6)
  assert len(whole.sentence_R) == 2 < len(rows(found))


def test_tags_are_of_the_training_split_or_are_given():
  found = told(Tags(classes=("O", "I-X", "B-X"), length=24), SENTENCES)
  assert found.classes == ("O", "I-X", "B-X")
  numbered = [Sentence(("a", "b"), ("0", "2"))]
  found = told(Tags(classes=("O", "P", "Q"), length=24), numbered)
  assert found.sentences("train")[0].tags == ("O", "Q")
  with pytest.raises(ValueError, match="has the tag 'I-X', and --data.classes"):
    rows(told(Tags(classes=("O", "B-X"), length=24), SENTENCES))
  with pytest.raises(ValueError, match="1 tags .O., and nothing is told apart"):
    told(Tags(length=24), [Sentence(("a",), ("O",))])
  with pytest.raises(ValueError, match="--data.classes=O,O: each once"):
    Tags(classes=("O", "O"))


@pytest.mark.parametrize(
  "line,says",
  [
    ({"words": ["a", "b"], "tags": ["O"]}, ":1: 2 words and 1 tags; one"),
    ({"words": ["a", " "], "tags": ["O", "O"]}, ":1: ' ' is no word"),
    (
      {"tokens": ["a"], "tags": ["O"]},
      "no column --data.sources.N.words=words",
    ),
    ({"words": "a b", "tags": ["O"]}, "column 'words' is 'a b', not a list"),
    ({"words": ["a"], "tags": [None]}, "column 'tags' has None, not the name"),
    ({"words": ["a"], "tags": [" "]}, ":1: '' is no tag"),
    ({"words": [3], "tags": ["O"]}, "a word of column 'words' is not text"),
  ],
)
def test_rows_that_are_no_words_with_tags(line, says, tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps(line) + "\n")
  with pytest.raises(ValueError) as e:
    list(TagFiles(paths=(str(path),)).sentences())
  assert says in str(e.value) and "rows.jsonl" in str(e.value)
  assert "\n" not in str(e.value)


def test_tables_and_columns_in_files(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text(json.dumps({"tokens": ["a", "b"], "ner": [0, "3 "]}) + "\n")
  source = TagFiles(paths=(str(path),), words="tokens", tags="ner", into="test")
  (found,) = source.sentences()
  assert found == Sentence(("a", "b"), ("0", "3"), "test", f"{path}:1")
  path = tmp_path / "eng.conll"
  path.write_text(
    "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\r\nrejects VBZ B-VP O\n\n\n"
    "Peter NNP B-NP B-PER"
  )
  source = ColumnFiles(paths=(str(path),))
  assert [(s.words, s.tags) for s in source.sentences()] == [
    (("EU", "rejects"), ("B-ORG", "O")),
    (("Peter",), ("B-PER",)),
  ]
  assert source.identity(quiet) != ColumnFiles((str(path),), 0, 1).identity(
    quiet
  )
  (first, _) = ColumnFiles(paths=(str(path),), tag=1).sentences()
  assert first.tags == ("NNP", "VBZ")
  # Other white space and ends of lines are no columns, and no lines.
  odd = "10\u00a0000\u2028x\x0by\x0c\x85z"
  path.write_bytes(f"{odd}\tNUM \tO\r\nb NUM O\u00a0\n".encode())
  (found,) = source.sentences()
  assert found.words == (odd, "b") and found.tags == ("O", "O")
  path.write_text("EU B-ORG\nalone\n")
  with pytest.raises(ValueError, match="eng.conll:2: 1 columns, none of them"):
    list(source.sentences())


def test_a_word_without_a_token_is_named():
  sentence = Sentence(("a", "\u200b\u200b", "b"), ("O",) * 3, where="f:3")
  place = np.array([[0, 1], [5, 6]])  # of what a tokenizer takes away
  with pytest.raises(ValueError, match="f:3: the tokenizer has no token for"):
    tagged.first_pieces(sentence, place)


def test_names_of_code_by_hand():
  line = "async def f ( self , * a , b = g . h ( 1 ) ) : ".split()
  want = "O O B-FUNCTION O B-PARAMETER O O B-PARAMETER O B-PARAMETER O".split()
  want += "B-CALL I-CALL I-CALL O O O O O".split()
  assert tags(tuple(line)) == tuple(want)
  line = "from a . b import c as d".split()
  assert tags(tuple(line)) == (
    *("O", "B-MODULE", "I-MODULE", "I-MODULE"),
    *["O"] * 4,
  )
  found = list(StdlibTags(packages=("json",)).sentences())
  assert len(found) > 50 and len({s.words for s in found}) == len(found)
  with pytest.raises(ValueError, match="packages=nowhere: no package"):
    list(StdlibTags(packages=("nowhere",)).sentences())


TEXT = "The caf\u00e9 of Anna lies in Rome, near the river."
ASKED = [
  Passage("1", "where?", TEXT, (("Rome", TEXT.index("Rome")), ("in Rome", 22))),
  Passage("2", "who?", TEXT, (("Anna", TEXT.index("Anna")),)),
  Passage("3", "when?", TEXT),
]
SMALL = Passages(length=24, overlap=6, question=6, widths=1, none_at="first")


@pytest.mark.parametrize("kind", ["bytes", "unigram"])
@pytest.mark.parametrize("none_at", ["first", "last"])
def test_windows_hold_all_of_a_text_and_tell_its_answer(kind, none_at):
  t = lossless_test.tokenizer(kind)
  found = told(dataclasses.replace(SMALL, none_at=none_at), ASKED, t)
  windows, place_R = found.windows("train")
  made = rows(found)
  assert len(made) == len(windows.question_R)
  passages = list(found.passages("train").values())
  assert passages == ASKED and found.has_none
  for n, its in enumerate(ASKED):
    of_n = np.flatnonzero(windows.question_R == n)
    told_at, covered = [], np.zeros(len(TEXT), bool)
    for r in of_n.tolist():
      row, place = made[r], place_R[r]
      assert row["row_B"] == r
      size, begin = int(row["segment_BT"].sum()), int(windows.begin_R[r])
      ids, end = row["tokens_BT"][:size].tolist(), begin + len(place)
      assert size == end + 1 and ids[-1] == t.eos_id and ids[0] == t.start_id
      assert t.decode(ids[1 : begin - 1]) == its.question[: begin - 2]
      text = TEXT[place[0, 0] : place[-1, 1]]
      assert t.decode(ids[begin:end]) in (text, text.strip())
      assert row["type_BT"][:size].tolist() == [0] * begin + [1] * (
        size - begin
      )
      none = 0 if none_at == "first" else end
      allowed = {none, *range(begin, end)}
      assert set(np.flatnonzero(row["mask_BT"])) == allowed
      covered[place[0, 0] : place[-1, 1]] = True
      a, b = int(row["start_B"]), int(row["end_B"])
      if a != none:
        told_at.append(TEXT[place[a - begin, 0] : place[b - begin, 1]].strip())
      else:
        assert b == none
    assert covered.all()
    assert len(of_n) > 1
    assert set(told_at) == set(its.truths[:1])
  first, last = windows.first_R, windows.last_R
  again = np.diff(windows.question_R) == 0
  assert ((last[:-1] - first[1:])[again] == SMALL.overlap).all()


def test_answers_that_no_window_has_whole_are_counted():
  """By hand: 12 tokens of text a window, 6 of them shared with the next."""
  at = TEXT.index("Anna lies in Rome")
  size = lambda n: Passage(str(n), "where?", TEXT, ((TEXT[at : at + n], at),))
  asked = [size(n) for n in (4, 7, 12, 17)]
  found = told(SMALL, [*asked, ASKED[2]])
  at, room = at + 1, 24 - 6 - 3  # an accent is two bytes
  starts = range(0, 60, room - 6)
  lost = sum(
    not any(s <= at and at + n <= s + room for s in starts)
    for n in (4, 7, 12, 17)
  )
  assert 0 < lost < 4
  assert found.notes == [
    f"--data.overlap=6: {lost} of 4 answers of the train split are in no window"
    " whole, the longest 17 tokens; their windows are taken to have none"
  ]
  # As many as rows say: none of such a question has an answer.
  rows_of = found.windows("train")[0].question_R
  none = [row["start_B"] == 0 for row in rows(found)]
  assert lost == sum(np.all(np.array(none)[rows_of == n]) for n in range(4))
  # What is no longer than two windows share, and one more, is in one whole.
  assert told(SMALL, [size(n) for n in range(1, 8)]).notes == []


class Begun(ByteTokenizer):
  """Whose texts begin with an id of their own, as BART's do."""

  start_id = ByteTokenizer.bos_id


def check_sources(t):
  """A source has what a row has; a start that ends a text, too, is left out."""
  less = 1 if t.start_id == t.eos_id else 0
  side = lambda size: {"source": SourceSide(size, "pad"), "length": size}
  asked = dataclasses.replace(SMALL, none_at="last", length=24 + less)
  for settings, found, names in (
    (Tags(length=24 + less, widths=1), SENTENCES, ("tag_BT", "word_BT")),
    (asked, ASKED, ()),
  ):
    apart = dataclasses.replace(settings, **side(24))
    both = (rows(told(its, found, t)) for its in (settings, apart))
    for one, two in zip(*both, strict=True):
      for name in ("mask_BT", "segment_BT", "target_BT", *names):
        np.testing.assert_array_equal(one[name][less:], two[name], name)
      source, size = two["source_BS"], int(two["segment_BT"].sum())
      np.testing.assert_array_equal(one["tokens_BT"][less:], source)
      begun = [t.pad_id, *source[: size - 1]]
      assert two["tokens_BT"].tolist() == begun + [0] * (24 - size)
      for name in ("start_B", "end_B"):
        if name in one:
          assert one[name] - less == two[name]


@pytest.mark.parametrize("t", [ByteTokenizer(), Begun()])
def test_what_an_encoder_reads_tells_the_same_at_the_same_places(t):
  check_sources(t)


@pytest.mark.parametrize("room", [tagged, windowed])
def test_mutant_places_behind_a_start_that_is_not_there(room, monkeypatch):
  class Late(framing.Frame):
    before = 1

    def __call__(self, *texts):
      return framing.Frame(*self)(*texts)

  of = framing.Frame.of.__func__
  monkeypatch.setattr(Late, "of", classmethod(of))
  monkeypatch.setattr(room, "Frame", Late)
  with pytest.raises(AssertionError):
    check_sources(ByteTokenizer())


def test_mutants_of_windows_are_caught(monkeypatch):
  monkeypatch.setattr(
    windowed,
    "answer",
    lambda p, place: p.answers[0][1:] * 2 if p.answers else (-1, -1),
  )  # characters taken for tokens
  with pytest.raises(AssertionError):
    test_windows_hold_all_of_a_text_and_tell_its_answer("bytes", "first")


def test_what_fits_is_one_window_and_long_questions_are_told():
  wide = Passages(length=100, overlap=6, question=4, none_at="first")
  found = told(wide, ASKED)
  assert len(rows(found)) == 3
  assert "2 of 3 questions are longer, the longest 6" in found.notes[0]
  for overlap in (15, 200):
    with pytest.raises(ValueError, match=f"--data.overlap={overlap}: beside"):
      told(dataclasses.replace(SMALL, overlap=overlap), ASKED)
  assert told(dataclasses.replace(SMALL, overlap=14), ASKED)


@pytest.mark.parametrize(
  "given,says",
  [
    ({"context": " "}, "question 1: its text is empty"),
    ({"question": ""}, "question 1: it is empty"),
    ({"answers": [("Rome", 3)]}, "'Rome' does not stand at character 3"),
    ({"answers": [("Rome", 400)]}, "where '' is"),
    ({"answers": [("Rome", -9)]}, "does not stand at character -9"),
    ({"answers": [("", 3)]}, "question 1: an answer is empty"),
  ],
)
def test_questions_that_are_none(given, says):
  whole = {"id": "1", "question": "q", "context": TEXT, "answers": ()} | given
  with pytest.raises(ValueError) as e:
    Passage(**whole)
  assert says in str(e.value) and "\n" not in str(e.value)


def squad(qas, context=TEXT):
  return {"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}


QAS = [
  {
    "id": "a",
    "question": "who?",
    "answers": [{"text": "Anna", "answer_start": 12}],
  },
  {"id": "b", "question": "when?", "answers": [], "is_impossible": True},
]


def at(place):
  return [{"text": "Anna", "answer_start": place}]


def write(folder, name, value):
  path = folder / name
  path.write_text(value if isinstance(value, str) else json.dumps(value))
  return PassageFiles(paths=(str(path),))


def test_squads_file_and_flat_rows_are_the_same(tmp_path):
  nested = list(write(tmp_path, "train.json", squad(QAS)).passages())
  assert [(p.id, p.truths) for p in nested] == [("a", ["Anna"]), ("b", [])]
  flat = [
    {
      "id": its["id"],
      "question": its["question"],
      "context": TEXT,
      "answers": {
        "text": [a["text"] for a in its["answers"]],
        "answer_start": [a["answer_start"] for a in its["answers"]],
      },
    }
    for its in QAS
  ]
  lines = "\n".join(map(json.dumps, flat))
  assert list(write(tmp_path, "rows.jsonl", lines).passages()) == nested


@pytest.mark.parametrize(
  "value,says",
  [
    ("", "train.json: the file is empty"),
    ("{", "train.json: not JSON"),
    ([], "not of SQuAD's shape"),
    ({"data": [{"paragraphs": [{"qas": []}]}]}, "holds no question"),
    ({"data": [{"paragraphs": [{"qas": QAS}]}]}, "(KeyError: 'context')"),
    (squad([QAS[0] | {"answers": "Anna"}]), "question a: answers are 'Anna'"),
    (squad([QAS[0] | {"answers": at(12.5)}]), "question a: answers are ["),
    (squad([QAS[0] | {"answers": at(True)}]), "question a: answers are ["),
    (squad([QAS[0] | {"answers": at(math.inf)}]), "question a: answers are ["),
    (squad([QAS[0] | {"is_impossible": True}]), "is_impossible, and has"),
    (squad([{"id": "c", "question": "q"}]), "question c: no field 'answers'"),
    (squad([QAS[0]], "x" * 99), "question a: its answer 'Anna' does not"),
  ],
)
def test_files_that_are_none(value, says, tmp_path):
  with pytest.raises(ValueError) as e:
    list(write(tmp_path, "train.json", value).passages())
  assert says in str(e.value) and "\n" not in str(e.value)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
  plain = list(write(tmp_path, "a.json", squad(QAS)).passages())
  marked = "\ufeff" + json.dumps(squad(QAS))
  assert list(write(tmp_path, "a.json", marked).passages()) == plain
  row = json.dumps({"context": TEXT, **QAS[0], "id": None})
  (found,) = write(tmp_path, "b.jsonl", f"\ufeff{row}\r\n").passages()
  assert found.truths == ["Anna"]
  assert found.id == f"{tmp_path / 'b.jsonl'}:1"  # of none it is its place
  path = tmp_path / "c.conll"
  path.write_text("\ufeffAnna B-PER\r\n")
  (found,) = ColumnFiles(paths=(str(path),)).sentences()
  assert found.words == ("Anna",)


def test_two_questions_of_one_id_are_refused(tmp_path):
  source = write(tmp_path, "train.json", squad([QAS[0], QAS[0]]))
  with pytest.raises(ValueError, match="question a: there are two of this id"):
    list(Told(source).documents())


def test_signatures_answer_questions(monkeypatch):
  source = '''
def one(self, a, b=2):
  """First thing."""
def two(x=[1, 2], *, y): pass
def three(a, b=2): pass
def four(*args): pass
'''
  monkeypatch.setattr(stdlib, "modules", lambda: [("m", source), ("n", source)])
  found = list(StdlibPassages(functions=3).passages())
  assert found[0].context == (
    "def one(self, a, b=2): First thing.\ndef two(x=[1, 2], *, y):\n"
    "def four(*args):"
  )
  assert [(p.question, p.truths) for p in found[:4]] == [
    ("arguments of one", ["a, b=2"]),
    ("last argument of one", ["b"]),
    ("default of the last argument of one", ["2"]),
    ("purpose of one", ["First thing."]),
  ]
  assert [p.truths for p in found[4:12]] == [
    *(["x=[1, 2], *, y"], ["y"], [], []),
    *(["*args"], ["args"], [], []),
  ]
  assert len(found) == 24 and len({p.id for p in found}) == 24


def test_batches_are_drawn_from_seed_and_epoch():
  found = told(dataclasses.replace(SMALL, widths=4), ASKED)
  one, two = (found.train(4, 0) for _ in range(2))
  for _ in range(3):
    a, b = one.next(), two.next()
    assert all((a[n] == b[n]).all() for n in a)
  with pytest.raises(ValueError, match="the validation split is empty: raise"):
    found.held_out("validation", 4)
