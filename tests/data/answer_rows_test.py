"""Conversations as sources and targets: every answer once, whole."""

import dataclasses

import numpy as np
import pytest

from llm_jax.data import answer_rows
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.sides import Frame, SourceSide
from llm_jax.data.tokens import Tokens
from llm_jax.tokenizers import special
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.data import chats
from tests.data.batches_test import assert_same, joined, take

BYTES = ByteTokenizer()
SINGLE = [
  {"prompt": f"What is {i}?", "completion": f"It is {'so ' * (i % 7)}{i}."}
  for i in range(60)
]


def turns(i):
  said = [f"hi {i}", f"yes {i}", "and?", f"no{i}"]
  roles = ("user", "assistant", "user", "assistant")
  return [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]


SEVERAL = [{"messages": turns(i)} for i in range(20)]
BASE = Instructions(length=40, validation=0.2, test=0.1, source=SourceSide(64))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("answers")
  chats.jsonl(folder / "single.jsonl", SINGLE)
  chats.jsonl(folder / "several.jsonl", SEVERAL)
  return folder


def made(home, *names, **changes):
  paths = names or ("single", "several")
  sources = tuple(Conversations(paths=(f"{home / p}.jsonl",)) for p in paths)
  its = dataclasses.replace(
    BASE, sources=sources, cache=str(home / "cache"), **changes
  )
  return its.prepare(chats.plain).tokenise(BYTES, chats.plain)


def examples(batch):
  """{(what is read, what is written)} of a batch, as text."""
  for b in range(len(batch["target_BT"])):
    count = batch["segment_BT"][b].max()
    if not batch["mask_BT"][b].any():
      continue  # added to fill the last batch
    assert count == batch["source_segment_BS"][b].max()
    for s in range(1, count + 1):
      read = batch["source_BS"][b][batch["source_segment_BS"][b] == s]
      here = batch["segment_BT"][b] == s
      assert batch["mask_BT"][b][here].all()
      tokens, target = (batch[k][b][here] for k in ("tokens_BT", "target_BT"))
      assert tokens[0] == BYTES.pad_id
      assert np.array_equal(tokens[1:], target[:-1])
      assert read[-1] == BYTES.eos_id
      assert target[-1] == special.ROLE_IDS["end"]
      yield BYTES.decode(read), BYTES.decode(target)


WANTED = {(row["prompt"], row["completion"]) for row in SINGLE}
for i in range(20):
  WANTED.add((f"hi {i}", f"yes {i}"))
  WANTED.add((f"hi {i}yes {i}and?", f"no{i}"))


def whole(data):
  found = []
  for split in ("train", "validation", "test"):
    for batch in data.held_out(split, 8):
      found += examples(batch)
  return found


@pytest.mark.parametrize("packing", ["best_fit", "one"])
def test_every_answer_is_a_target_once(packing, home):
  found = whole(made(home, packing=packing))
  assert len(found) == len(WANTED) == 100
  assert set(found) == WANTED


def test_mutant_the_next_conversation_s_prompt_is_caught(home, monkeypatch):
  """Sources that begin where another conversation does."""
  fit = answer_rows.fit

  def off_by_one(tokens, *args):
    found = fit(tokens, *args)
    starts = np.concatenate([found.pieces.start[:1], found.pieces.start[:-1]])
    return found._replace(pieces=found.pieces._replace(start=starts))

  monkeypatch.setattr(answer_rows, "fit", off_by_one)
  with pytest.raises((AssertionError, ValueError)):
    assert set(whole(made(home, "single"))) <= WANTED


def test_an_epoch_of_training_has_each_answer_of_its_split(home):
  data = made(home, "single")
  wanted = {e for b in data.held_out("train", 8) for e in examples(b)}
  source = data.train(8, 0)
  found = {e for b in take(source, 60) for e in examples(b)}
  assert found == wanted


@pytest.mark.parametrize("packing", ["best_fit", "one"])
def test_one_stream_whatever_the_processes_and_resumed(packing, home):
  data = made(home, packing=packing)
  stream = take(data.train(8, 0), 8)
  blocks = [take(data.train(8, 0, (i, 2)), 8) for i in range(2)]
  assert_same(joined(blocks), stream)
  resumed = data.train(8, 0)
  resumed.set_state({"batches": 3})
  assert_same(take(resumed, 5), stream[3:])
  if packing == "one":
    assert min(b["target_BT"].shape[1] for b in stream) < 40


def test_long_ones_are_told_dropped_or_cut(home):
  tight = {"length": 8, "source": SourceSide(12)}
  with pytest.raises(ValueError, match="answers of the train split or their"):
    made(home, "single", **tight)
  data = made(home, "several", too_long="drop", **tight)
  assert "they are dropped" in data.notes[0]
  found = whole(data)
  assert found and set(found) < WANTED
  assert all(len(a) < 12 and len(b) < 8 for a, b in found)
  data = made(home, "several", too_long="cut", length=9, source=SourceSide(10))
  assert "they are cut" in data.notes[0]
  read = [a for a, _ in whole(data)]
  assert len(read) == 40 and all(
    "and?".endswith(a[-4:]) or "hi" in a for a in read
  )


def test_answers_that_touch_the_borders_of_conversations():
  trained = np.array([0, 1, 1, 1, 0, 1], bool)
  tokens = Tokens(np.arange(6), np.array([0, 3, 6]), 0, trained)
  found = answer_rows.fit(tokens, 9, 9, True)
  assert [at.tolist() for at in found.pieces] == [
    [0, 3, 3],
    [1, 3, 5],
    [3, 4, 6],
  ]
  assert found.kept.tolist() == [0, 1] and found.num == 3


def test_what_begins_texts_is_before_each_source():
  """As BART's are read; the room that a source has counts it."""
  trained = np.array([0, 0, 0, 0, 1, 1], bool)
  tokens = Tokens(np.arange(10, 16), np.array([0, 6]), 0, trained)
  fit = lambda S: answer_rows.fit(tokens, S, 4, False, 2)
  for S, want in ((6, [7, 10, 11, 12, 13, 9]), (5, [7, 11, 12, 13, 9])):
    pieces = fit(S).pieces
    frame = Frame(begins=(7,), end_id=9, start_id=8)
    rows = answer_rows.AnswerRows(tokens, pieces, (S, 4), frame, None)
    assert rows.row(0, 0)["source_BS"].tolist() == want
  assert (fit(6).num_long, fit(5).num_long) == (0, 1)
