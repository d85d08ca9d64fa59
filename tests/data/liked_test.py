"""Answers alone become rows whose other side is still to be drawn."""

import dataclasses
import json

import numpy as np
import pytest

from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.preference_sources import PreferenceFiles
from llm_jax.data.preferences import Preferences
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.data import chats

BYTES, T = ByteTokenizer(), 64
NAMES = ("tokens_BT", "target_BT", "mask_BT", "prompt_BT")
CHATS = [
  {
    "messages": [
      {"role": "user", "content": f"What is {i}?"},
      {"role": "assistant", "content": f"{i} {'and so on ' * (i % 3)}"},
    ]
  }
  for i in range(30)
]
PAIRS = [
  {"prompt": f"What is {i}?", "chosen": f"yes {i}", "rejected": "no"}
  for i in range(30)
]


def made(home, source, table, **changes):
  path = chats.jsonl(home / f"{source.__name__}.jsonl", table)
  data = Preferences(
    sources=(source(paths=(str(path),)),),
    rows="answers",
    length=T,
    validation=0.3,
    cache=str(home / "cache"),
  )
  data = dataclasses.replace(data, **changes)
  corpus = data.prepare(chats.plain)
  return corpus.tokenise(BYTES, chats.plain)


def answers(tokens, split):
  """Text of each chosen completion."""
  out = []
  for b in tokens.held_out(split, 4):
    rows = zip(b["target_BT"][::2], b["mask_BT"][::2], strict=True)
    out += [BYTES.decode(ids[mask][:-1]) for ids, mask in rows if mask.any()]
    for name in NAMES:
      assert not b[name][1::2].any()
  return out


def test_every_answer_of_a_conversation_is_liked(tmp_path):
  found = made(tmp_path, Conversations, CHATS)
  said = [[m["content"] for m in row["messages"]] for row in CHATS]
  by_split = {s: answers(found, s) for s in ("train", "validation")}
  assert sorted(sum(by_split.values(), [])) == sorted(a for _, a in said)
  # In the split that it has as a conversation.
  as_chats = Instructions(
    sources=(Conversations(paths=(str(tmp_path / "Conversations.jsonl"),)),),
    length=T,
    validation=0.3,
    cache=str(tmp_path / "cache"),
  )
  known = as_chats.prepare(chats.plain).tokenise(BYTES, chats.plain)
  there = [e.reference for e in known.examples("validation")]
  assert sorted(there) == sorted(by_split["validation"])
  asked = [e.reference for e in found.examples("validation")]
  assert sorted(asked) == sorted(there)


def test_of_pairs_the_chosen_ones_are_there_as_in_pairs(tmp_path):
  found = made(tmp_path, PreferenceFiles, PAIRS)
  pairs = made(tmp_path, PreferenceFiles, PAIRS, rows="pairs")
  a, b = (list(x.held_out("validation", 4)) for x in (found, pairs))
  assert len(a) == len(b) > 1
  for mine, theirs in zip(a, b, strict=True):
    for name in NAMES:
      np.testing.assert_array_equal(mine[name][::2], theirs[name][::2])
    assert theirs["mask_BT"][1::2].any()


def test_what_is_not_liked_is_not_there(tmp_path):
  likes = [
    {"prompt": f"q{i}", "completion": f"c{i}", "label": i % 3 == 0}
    for i in range(30)
  ]
  found = made(tmp_path, PreferenceFiles, likes)
  every = answers(found, "train") + answers(found, "validation")
  assert sorted(every) == sorted(f"c{i}" for i in range(0, 30, 3))


def test_an_empty_answer_is_counted_and_left_out(tmp_path):
  none = json.loads(json.dumps(CHATS[0]))
  none["messages"][1]["content"] = " "
  found = made(tmp_path, Conversations, [*CHATS, none])
  assert "1 left out, the first being an answer is empty" in found.notes[0]
  assert len(answers(found, "train") + answers(found, "validation")) == 30


def test_answers_alone_are_no_pairs(tmp_path):
  found = made(tmp_path, Conversations, CHATS, rows="pairs")
  with pytest.raises(ValueError, match="holds no pairs: .* --data.rows"):
    found.train(4, 0)
  with pytest.raises(ValueError, match="--data.packing=best_fit"):
    made(tmp_path, Conversations, CHATS, packing="best_fit")
