"""Conversations become rows: whole, each in one split, in their shares."""

import collections
import dataclasses

import numpy as np
import pytest

from llm_jax.data import batches, chat, conversation_tokens
from llm_jax.data.conversation import Conversation, Message
from llm_jax.data.conversations import Conversations
from llm_jax.data.instructions import Instructions
from llm_jax.data.text import Text
from llm_jax.tokenizers import special
from llm_jax.tokenizers.bytes import ByteTokenizer
from tests.data import chats, hosts

BYTES = ByteTokenizer()
T = 48
ROWS = [
  {"prompt": f"What is {i}?", "completion": f"It is {'so ' * (i % 7)}{i}."}
  for i in range(60)
]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  return tmp_path_factory.mktemp("instructions")


def settings(home, *files, **changes):
  for name, rows in files or [("a", ROWS)]:
    chats.jsonl(home / f"{name}.jsonl", rows)
  sources = tuple(
    Conversations(paths=(str(home / f"{name}.jsonl"),))
    for name, _ in files or [("a", ROWS)]
  )
  base = Instructions(
    sources=sources,
    length=T,
    validation=0.2,
    test=0.1,
    cache=str(home / "cache"),
  )
  return dataclasses.replace(base, **changes)


def made(home, *files, **changes):
  corpus = settings(home, *files, **changes).prepare(chats.plain)
  return corpus.tokenise(BYTES, chats.plain)


def answers(batch):
  """Trained texts of a batch, conversation by conversation."""
  out = []
  for b in range(len(batch["target_BT"])):
    for s in range(1, batch["segment_BT"][b].max() + 1):
      here = (batch["segment_BT"][b] == s) & batch["mask_BT"][b]
      if here.any():
        out.append(BYTES.decode(batch["target_BT"][b][here]))
  return out


def test_every_conversation_is_once_in_one_split(home):
  data = made(home)
  found = {
    s: [x for b in data.held_out(s, 4) for x in answers(b)] for s in SPLITS
  }
  everything = sum(found.values(), [])
  assert sorted(everything) == sorted(r["completion"] for r in ROWS)
  assert all(found.values()) and len(found["train"]) > len(found["test"])
  assert data.notes == []


def test_rows_say_what_is_trained(home):
  (only,) = made(home).held_out("validation", 64)
  mask, prompt = only["mask_BT"], only["prompt_BT"]
  real = only["segment_BT"] > 0
  real &= (mask.any(1) | prompt.any(1))[:, None]  # not the rows added
  np.testing.assert_array_equal(mask | prompt, real)
  assert not (mask & prompt).any()
  stop = only["target_BT"] == special.ROLE_IDS["end"]
  assert (stop & mask).sum() == (stop & prompt).sum() == len(answers(only))
  first = (only["position_BT"] == 0) & real
  assert (only["tokens_BT"][first] == BYTES.eos_id).all()
  user = special.ROLE_IDS["user"]
  assert (only["target_BT"][first] == user).all()


def test_training_rows_pack_or_hold_one(home):
  packed, alone = made(home), made(home, packing="one")
  count = len(alone.examples("train"))
  take = lambda d, n: [d.train(n, 0).next()]
  (a,), (p,) = take(alone, count), take(packed, count)
  assert sorted(answers(a)) == sorted(
    e.reference for e in alone.examples("train")
  )
  assert a["segment_BT"].max() == 1 < p["segment_BT"].max()
  one = [x for b in alone.held_out("test", 4) for x in answers(b)]
  two = [x for b in packed.held_out("test", 4) for x in answers(b)]
  assert sorted(one) == sorted(two)


def test_the_same_batches_for_any_number_of_hosts_and_after_a_stop(home):
  hosts.batches(lambda: made(home), "target_BT")


def test_mutant_a_place_that_is_forgotten_is_caught(home, monkeypatch):
  monkeypatch.setattr(batches.Offline, "set_state", lambda *_: None)
  with pytest.raises(AssertionError):
    hosts.batches(lambda: made(home), "target_BT")


LONG = [*ROWS, {"prompt": "p" * 5, "completion": "c" * 100}]
LONG += [{"prompt": "q" * 100, "completion": "lost"}]


def counts(notes):
  return sum(int(n.split(": ")[1].split(" of ")[0]) for n in notes)


def test_too_long_is_an_error_unless_told(home):
  with pytest.raises(ValueError) as e:
    made(home, ("long", LONG), validation=0.0, test=0.0)
  assert str(e.value) == (
    "--data.length=48: 2 of 62 conversations of the train split are longer, the"
    " longest 109 tokens; raise it, or set --data.too_long=cut or drop"
  )
  fits = made(home, ("long", LONG), validation=0.0, test=0.0, length=109)
  assert fits.notes == [] and len(fits.examples("train")) == 62


def test_too_long_is_dropped_and_counted(home):
  data = made(home, ("long", LONG), too_long="drop")
  found = [x for s in SPLITS for b in data.held_out(s, 4) for x in answers(b)]
  assert sorted(found) == sorted(r["completion"] for r in ROWS)
  assert counts(data.notes) == 2
  assert all(n.endswith("they are dropped") for n in data.notes)


def test_too_long_is_cut_and_counted(home):
  data = made(home, ("long", LONG), too_long="cut")
  found = [x for s in SPLITS for b in data.held_out(s, 4) for x in answers(b)]
  cut = T - len("pppppUEA")  # user, end, assistant
  want = [*(r["completion"] for r in ROWS), "c" * cut]
  assert sorted(found) == sorted(want)
  assert counts(data.notes) == 2
  lost = sum(int(n.split(" and ")[1].split()[0]) for n in data.notes)
  assert lost == 1  # nothing of its answer was left


def test_weights_and_temperature(home):
  small = [{"prompt": f"b{i}", "completion": "two"} for i in range(20)]
  files = [("a", ROWS), ("b", small)]
  share = lambda **k: made(home, *files, validation=0, test=0, **k).shares()
  np.testing.assert_allclose(share(), [0.75, 0.25])
  np.testing.assert_allclose(share(weights=(1.0, 3.0)), [0.25, 0.75])
  root = np.sqrt(3)
  np.testing.assert_allclose(
    share(temperature=2.0), [root / (1 + root), 1 / (1 + root)]
  )
  np.testing.assert_allclose(share(temperature=1e6), [0.5, 0.5], atol=1e-5)


@pytest.mark.parametrize("packing", ["best_fit", "one"])
def test_shares_are_of_examples_though_rows_hold_several(home, packing):
  short = [{"prompt": f"b{i}", "completion": "!"} for i in range(60)]
  data = made(
    home, ("a", ROWS), ("b", short), weights=(1.0, 1.0), packing=packing
  )
  source = data.train(16, 0)
  found = sum((answers(source.next()) for _ in range(60)), [])
  share = collections.Counter(a == "!" for a in found)[True] / len(found)
  assert abs(share - 0.5) < 0.03
  if packing == "best_fit":  # the mutant: shares of rows
    rows = [data._rows(i, (0, i)) for i in (0, 1)]
    held = [len(data._fitted[i]["train"].kept) / len(rows[i]) for i in (0, 1)]
    assert abs(held[1] / sum(held) - 0.5) > 0.06


def test_examples_are_what_training_saw(home):
  data = made(home)
  tokens = data.tokens("validation")
  documents = [
    tuple(tokens.ids[a:b].tolist())
    for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)
  ]
  examples = data.examples("validation")
  assert len(examples) == len(documents)
  for e in examples:
    whole = (*e.prompt_ids, *BYTES.encode(e.reference), special.ROLE_IDS["end"])
    assert whole in documents
    assert e.conversation.answer == e.reference
  assert data.examples("validation", 5) == examples[:5]
  assert made(home).examples("validation") == examples
  dropped = made(home, ("long", LONG), too_long="drop")
  texts = [e.reference for s in SPLITS for e in dropped.examples(s)]
  assert sorted(texts) == sorted(r["completion"] for r in ROWS)


def test_examples_with_others_shown_first(home):
  data = made(home)
  train = {e.reference for e in data.examples("train")}
  for zero, two in zip(
    data.examples("validation", 6),
    data.examples("validation", 6, 2),
    strict=True,
  ):
    assert zero.conversation == two.conversation
    assert two.prompt_ids[-len(zero.prompt_ids) :] == zero.prompt_ids
    text = BYTES.decode(two.prompt_ids)
    assert sum(r in text for r in train) >= 2
    starts = two.prompt_ids.count(special.ROLE_IDS["assistant"])
    assert starts == 3


def test_a_cached_start_reads_no_source(home, monkeypatch):
  want = made(home)
  monkeypatch.setattr(Conversations, "documents", None)
  monkeypatch.setattr(conversation_tokens, "_write", None)
  got = made(home)
  assert got.identity == want.identity
  np.testing.assert_array_equal(got.tokens("test").ids, want.tokens("test").ids)


def test_identity_changes_with_text_template_and_tokenizer(home, tmp_path):
  one = made(home).identity
  assert made(home, length=60, too_long="drop").identity == one
  assert made(home, template="plain").identity != one
  assert made(home, ("c", ROWS[1:])).identity != one
  path = tmp_path / "a.jinja"
  path.write_text(chat.CHAT)
  assert made(home, template=str(path)).identity == one
  path.write_text(chat.CHAT + "{# more #}")
  assert made(home, template=str(path)).identity != one


def test_a_template_that_changes_is_tokenised_again(home):
  data = made(home, template="plain")
  assert special.ROLE_IDS["user"] not in data.tokens("train").ids
  assert special.ROLE_IDS["user"] in made(home).tokens("train").ids


def test_splits_hold_one_question_each():
  """Two answers to one question, or to one turn, are in the same split."""
  for i in range(50):
    a = chats.talk(f"q{i}", "one", "more", "two")
    b = chats.talk(f"q{i}", "other")
    assert a.placed == b.placed != chats.talk(f"q{i} ", "one").placed
  assert chats.talk("q", "a", place=0.3).placed == 0.3


def test_a_greeting_is_no_question():
  """Else all conversations that it begins would be in one split."""
  greeted = [
    dataclasses.replace(c, messages=(Message("assistant", "Hi"), *c.messages))
    for c in (chats.talk(f"q{i}", "a") for i in range(9))
  ]
  assert len({c.placed for c in greeted}) == 9
  only = [Conversation((Message("assistant", str(i)),)) for i in range(9)]
  assert len({c.placed for c in only}) == 9


def test_empty_splits_and_wrong_names(home):
  for changes, want in (
    ({"validation": 0.0}, "the validation split is empty: raise --data.valid"),
    ({"test": 0.0}, "the test split is empty: raise --data.test"),
  ):
    data = made(home, **changes)
    with pytest.raises(ValueError, match=want):
      data.held_out(want.split()[1], 4)
  with pytest.raises(ValueError, match=r"--validation.split=dev: one of train"):
    made(home).tokens("dev")
  data = made(home, length=5, too_long="drop")
  with pytest.raises(
    ValueError, match="train split is empty: no .* short .*=5"
  ):
    data.train(4, 0)
  files = [("a", ROWS), ("l", LONG[-1:])]
  data = made(home, *files, too_long="drop", validation=0.0, test=0.0)
  with pytest.raises(ValueError, match=r"no documents \(--data.sources.1\)"):
    data.train(4, 0)


def test_errors_name_the_source(home):
  with pytest.raises(ValueError, match=r"b.jsonl:1: .*see --data.sources.1.t"):
    made(home, ("a", ROWS), ("b", [{"text": "a"}]))


def test_wrong_settings():
  for wrong, want in (
    ({"weights": (1.0, 2.0)}, "one positive number for each of 1 sources"),
    ({"validation": 0.5, "test": 0.5}, "nothing is left to train on"),
    ({"sources": ()}, "at least one source"),
  ):
    for kind in (Instructions, Text):
      with pytest.raises(ValueError, match=want):
        kind(**wrong)
  with pytest.raises(ValueError, match=r"--data.template=nice: one of"):
    Instructions(template="nice").prepare(chats.plain)
