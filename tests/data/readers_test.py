"""Every form gives the same conversation; what is wrong with one is named."""

import json

import pyarrow as pa
from pyarrow import parquet
import pytest

from llm_jax.data.conversation import from_json, Message
from llm_jax.data.conversations import Conversations, TFDSConversations
from tests.data import chats

ASKED, ANSWER = chats.TURNS[0][1], chats.TURNS[1][1]
ROWS = {
  "messages": {"messages": chats.MESSAGES, "id": 3},
  "prompt_completion": {"prompt": ASKED, "completion": ANSWER},
  "alpaca": {"instruction": ASKED, "input": "", "output": ANSWER},
}


def read(path, **settings):
  source = Conversations(paths=(str(path),), **settings)
  source.identity(chats.plain)
  return [from_json(line) for line in source.documents()]


def message(path, **settings):
  with pytest.raises(ValueError) as e:
    read(path, **settings)
  assert "\n" not in str(e.value)
  return str(e.value)


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_every_form_in_every_file_is_one_conversation(form, kind, tmp_path):
  path = tmp_path / f"a.{kind}"
  rows = [ROWS[form]] * 2
  if kind == "parquet":
    parquet.write_table(pa.Table.from_pylist(rows), path)
  else:
    (chats.packed if kind == "jsonl.gz" else chats.jsonl)(path, rows)
  want = [chats.talk(ASKED, ANSWER)] * 2
  assert read(path) == want
  assert read(path, format=form) == want


def test_forms_may_stand_in_one_file(tmp_path):
  path = chats.jsonl(tmp_path / "a.jsonl", ROWS.values())
  assert read(path) == [chats.talk(ASKED, ANSWER)] * 3


def test_tfds(tmp_path):
  def features(f):
    turn = {"role": f.Text(), "content": f.Text()}
    return {"messages": f.Sequence(turn)}

  rows = [{"messages": chats.MESSAGES}]
  folder = chats.tfds_folder(tmp_path, rows, features)
  source = TFDSConversations(name=folder)
  assert source.identity(chats.plain) == source.identity(chats.plain)
  found = [from_json(line) for line in source.documents()]
  assert found == [chats.talk(ASKED, ANSWER)]


def test_tfds_names_labels(tmp_path):
  def features(f):
    return {"text": f.Text(), "label": f.ClassLabel(names=["bad", "good"])}

  rows = [{"text": "fine", "label": 1}]
  folder = chats.tfds_folder(tmp_path, rows, features, "labelled")
  source = TFDSConversations(name=folder, task="classification")
  (line,) = source.documents()
  assert from_json(line).answer == "good"


def test_alpaca_with_an_input(tmp_path):
  row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
  path = chats.jsonl(tmp_path / "a.jsonl", [row])
  assert read(path) == [chats.talk("Add.\n\n1, 2", "3")]


def test_several_turns_and_a_system(tmp_path):
  turns = [
    {"role": r, "content": f"{r} {i}", "name": "ignored"}
    for i, r in enumerate(["system", "user", "assistant", "user", "assistant"])
  ]
  path = chats.jsonl(tmp_path / "a.jsonl", [{"messages": turns}])
  (found,) = read(path)
  assert [m.role for m in found.messages] == [t["role"] for t in turns]
  assert found.answer == "assistant 4"
  assert found.question.messages == found.messages[:-1]
  assert from_json(found.to_json()) == found


def test_other_names_of_fields(tmp_path):
  rows = [{"query": "a", "reply": "b"}]
  path = chats.jsonl(tmp_path / "a.jsonl", rows)
  names = ("prompt=query", "completion=reply")
  assert read(path, fields=names) == [chats.talk("a", "b")]
  assert ".fields=prompt: expected OURS=THEIRS" in message(
    path, fields=("prompt",)
  )


def test_a_task_and_an_own_wording(tmp_path):
  rows = [{"question": "1 + {x}?", "answer": "#### 2"}]
  path = chats.jsonl(tmp_path / "a.jsonl", rows)
  (found,) = read(path, task="question_answering")
  assert "1 + {x}?" in found.messages[0].content  # no place to be filled
  assert found.answer == "#### 2" and found.task == "question_answering"
  (found,) = read(path, prompt="Q: {question}\nA:", answer="answer")
  assert found == chats.talk("Q: 1 + {x}?\nA:", "#### 2")


def test_identity_changes_with_what_is_read(tmp_path):
  path = chats.jsonl(tmp_path / "a.jsonl", ROWS.values())

  def identity(**settings):
    source = Conversations(paths=(str(path),), **settings)
    return source.identity(chats.plain)

  assert identity() == identity()
  assert identity() != identity(format="alpaca")
  assert identity() != identity(task="code")
  one = identity()
  chats.jsonl(path, [ROWS["alpaca"]])
  assert identity() != one


def turns(*pairs):
  return {"messages": [{"role": r, "content": c} for r, c in pairs]}


WRONG = {
  "role": (
    turns(("user", "a"), ("robot", "b")),
    "a.jsonl:2: messages[1] has the unknown role 'robot'; known: system, user,"
    " assistant",
  ),
  "no assistant": (turns(("user", "a")), "holds no turn of the assistant"),
  "nobody": (turns(), "holds no turn of the assistant"),
  "content": (turns(("user", 3)), "messages[0] content is not text but 3"),
  "none": (turns(("user", None)), "messages[0] content is not text but None"),
  "surrogate": (turns(("user", "a\ud800")), "character 1 of messages[0]"),
  "no content": (
    {"messages": [{"role": "user", "text": "a"}]},
    "messages[0] has no 'content'; fields there: role, text",
  ),
  "text": ({"messages": "Hallo"}, "field 'messages' is no list but 'Hallo'"),
  "a text in it": ({"messages": ["a"]}, "messages[0] is no object but 'a'"),
  "fields": (
    {"prompt": "a", "reply": "b"},
    "a.jsonl:2: fields prompt, reply are of no known format (messages; prompt,"
    " completion; instruction, output)",
  ),
  "completion": (
    {"prompt": "a", "completion": ["b"]},
    "a.jsonl:2: field 'completion' is not text but ['b']",
  ),
  "output": (
    {"instruction": "a", "output": None},
    "field 'output' is not text but None",
  ),
  "object": ([1], "a.jsonl:2: expected an object, got [1]"),
}
LINES = {
  "deep": '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}",
  "digits": '{"prompt": ' + "1" * 5000 + "}",
  "mark": json.dumps(ROWS["alpaca"]) + "\ufeff",
  "zeros": "\x00\x00",
}


@pytest.mark.parametrize("case", LINES)
def test_a_line_that_json_cannot_be_is_named(case, tmp_path):
  path = chats.jsonl(tmp_path / "a.jsonl", [ROWS["alpaca"]])
  with path.open("a", encoding="utf-8") as f:
    f.write(LINES[case] + "\n")
  assert f"{path}:2: not JSON: " in message(path)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_named(case, tmp_path):
  row, want = WRONG[case]
  path = chats.jsonl(tmp_path / "a.jsonl", [ROWS["alpaca"], row])
  said = message(path)
  assert want in said and f"{path}:2: " in said


def test_a_missing_field_of_a_named_format(tmp_path):
  path = chats.jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "text": "b"}])
  said = message(path, format="prompt_completion")
  assert "a.jsonl:1: no field 'completion'; fields here: prompt, text" in said
  assert "no field 'messages'" in message(path, format="messages")


CLASH = {
  "task": ({"task": "cooking"}, ".task=cooking: one of classification, "),
  "no wording": ({"format": "task"}, ".format=task: needs"),
  "no answer": ({"prompt": "{question}"}, "needs --data.sources.N.answer"),
  "an answer to nothing": (
    {"answer": "output"},
    ".answer=output: needs --data.sources.N.task or --data.sources.N.prompt",
  ),
  "no field in it": (
    {"prompt": "{ text }", "answer": "output"},
    ".prompt='{ text }': names no field; write {text} where the field 'text'",
  ),
  "a field of no format": (
    {"fields": ("inptu=context",)},
    ".fields=inptu=context: 'inptu' is read nowhere; known: messages, prompt,",
  ),
  "a field of no wording": (
    {"prompt": "{a} {b}", "answer": "c", "fields": ("b=x", "d=y")},
    ".fields=d=y: 'd' is read nowhere; known: a, b, c",
  ),
  "both": (
    {"format": "alpaca", "task": "code"},
    ".format=alpaca: reads no task or prompt, but 'code' is given",
  ),
}


@pytest.mark.parametrize("case", CLASH)
def test_settings_that_clash(case, tmp_path):
  settings, want = CLASH[case]
  path = chats.jsonl(tmp_path / "a.jsonl", [ROWS["alpaca"]])
  assert want in message(path, **settings)


def test_files_that_are_wrong(tmp_path):
  assert "no such file" in message(tmp_path / "none.jsonl")
  path = tmp_path / "a.jsonl"
  path.touch()
  assert message(path) == f"{path}: the file is empty"
  path.write_text('{"prompt": "a", "comp')
  assert f"{path}:1: not JSON" in message(path)
  text = tmp_path / "a.txt"
  text.write_text("a")
  assert "known: .jsonl, .jsonl.gz, .parquet" in message(text)
  broken = tmp_path / "b.parquet"
  parquet.write_table(pa.table({"prompt": ["a"], "completion": [3]}), broken)
  said = message(broken)
  assert "b.parquet: row 1: field 'completion' is not text but 3" in said


def test_gsm8k_as_it_comes(tmp_path):
  row = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 24"}
  path = chats.jsonl(tmp_path / "a.jsonl", [row])
  (found,) = read(path, task="question_answering")
  assert "How many?" in found.messages[0].content
  assert found.messages[1] == Message("assistant", row["answer"])
  assert json.loads(found.to_json())[2] == "question_answering"
